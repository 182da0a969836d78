"""Frame codec of the dataset: one JPEG per frame; docs/storage.md has the measurements behind this choice.

A chunk is the concatenated JPEGs of its frames with the end offset of each, so a reader decodes only the frames that it
needs: a policy stream skips null actions, a third of the frames, at no cost.
"""

import io
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import av
import cv2
import numpy as np
from jaxtyping import Int, Int32, UInt8

from vpt_jax.data.jpeg import jpeg_shape

cv2.setNumThreads(1)  # frames are coded in worker processes, one per core: OpenCV's own threads would only compete

QUALITY = 90
FULL_CHROMA = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
HALF_CHROMA = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420
_READ_RGB = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION

Frame = UInt8[np.ndarray, "h w 3"]
Chunk = tuple[bytes, Int32[np.ndarray, " n"]]


def encode_chunk(frames: Iterable[Frame], quality: int = QUALITY, chroma: int = FULL_CHROMA) -> Chunk:
    """Encodes frames as concatenated JPEGs, and returns them with the end offset of each.

    Args:
      frames: RGB, all of one size.
      quality: JPEG quality of libjpeg, 1 to 100.
      chroma: chroma subsampling: full resolution (default), or half of it.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, chroma]
    jpegs = [cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes() for frame in frames]
    return b"".join(jpegs), np.cumsum([len(jpeg) for jpeg in jpegs], dtype=np.int32)


def decode_frames(
    data: bytes,
    ends: Int32[np.ndarray, " frames"],
    wanted: Sequence[int] | Int[np.ndarray, " n"],
    shape: tuple[int, ...] | None = None,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Decodes the frames of a chunk at the positions `wanted` (at least one, in any order) to RGB.

    Args:
      data, ends: from `encode_chunk`; untrusted, so headers are validated before OpenCV gets the bytes.
      wanted: positions in the chunk.
      shape: required shape of every frame; None: shape of the first one.

    Raises:
      ValueError: a frame is missing, is not a JPEG as `encode_chunk` writes it, has another shape, or is damaged.
    """
    jpegs = [_cut(data, ends, int(i)) for i in wanted]
    shape = shape or jpeg_shape(jpegs[0])
    for jpeg in jpegs:
        if (found := jpeg_shape(jpeg)) != shape:
            raise ValueError(f"a stored frame is {_size(found)}, and the frames of this dataset are {_size(shape)}")
    return np.stack([_decode_jpeg(jpeg, shape) for jpeg in jpegs])


def frame_shape(data: bytes, ends: Int32[np.ndarray, " frames"]) -> tuple[int, ...]:
    """Height, width and channels of a chunk's first frame, from its header; raises as `decode_frames` does."""
    return jpeg_shape(_cut(data, ends, 0))


def _cut(data: bytes, ends: Int32[np.ndarray, " frames"], i: int) -> bytes:
    """Returns the JPEG bytes of frame `i`."""
    if not isinstance(data, bytes):
        raise ValueError(f"it holds {len(data)} values of `frames`")
    if not 0 <= i < len(ends):
        raise ValueError(f"it holds {len(ends)} frames, and frame {i} was requested")
    start, end = int(ends[i - 1]) if i else 0, int(ends[i])
    if not 0 <= start < end <= len(data):
        raise ValueError(f"frame {i} extends from byte {start} to {end} of {len(data)}")
    return data[start:end]


def _decode_jpeg(jpeg: bytes, shape: tuple[int, ...]) -> Frame:
    try:
        frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), _READ_RGB)
    except cv2.error as error:
        raise ValueError(f"a stored frame of {len(jpeg)} bytes cannot be decoded: {error}") from error
    if frame is None or frame.shape != shape:
        raise ValueError(f"a stored frame of {len(jpeg)} bytes is not a JPEG that can be decoded")
    return frame


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


class CodecRow(NamedTuple):
    """Codec benchmark result: bytes per frame, frames per second of one core, and error (8-bit levels, PSNR in dB)."""

    codec: str
    bytes_per_frame: float
    encoded_per_second: float
    decoded_per_second: float
    mean_abs_error: float
    psnr: float


def measure_codecs(frames: UInt8[np.ndarray, "n h w 3"], chunk_frames: int = 32, repeats: int = 3) -> list[CodecRow]:
    """Benchmarks codecs on chunks of these frames. Times are CPU time of this process, best of `repeats`.

    H.264 encodes each chunk as a separate video, tuned for decoding; reading one of its frames decodes the whole chunk.
    """
    codecs: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
        "H.264, crf 18": (partial(_encode_h264, crf=18), _decode_h264),
        "H.264, crf 23": (partial(_encode_h264, crf=23), _decode_h264),
        "JPEG 90, half chroma": (partial(encode_chunk, chroma=HALF_CHROMA), _decode_all),
        "JPEG 85": (partial(encode_chunk, quality=85), _decode_all),
        "JPEG 90": (encode_chunk, _decode_all),
        "JPEG 95": (partial(encode_chunk, quality=95), _decode_all),
    }
    chunks = [frames[i : i + chunk_frames] for i in range(0, len(frames), chunk_frames)]
    return [_measure(name, encode, decode, chunks, repeats) for name, (encode, decode) in codecs.items()]


def _measure(name: str, encode: Callable, decode: Callable, chunks: list[np.ndarray], repeats: int) -> CodecRow:
    stored, encode_seconds = _best_time(lambda: [encode(chunk) for chunk in chunks], repeats)
    decoded, decode_seconds = _best_time(lambda: [decode(*chunk) for chunk in stored], repeats)
    frames, size = sum(map(len, chunks)), sum(len(chunk[0]) for chunk in stored)
    error = np.concatenate(decoded).astype(np.float32) - np.concatenate(chunks)
    psnr = 10 * np.log10(255**2 / np.mean(error**2))
    return CodecRow(
        name, size / frames, frames / encode_seconds, frames / decode_seconds, float(np.abs(error).mean()), float(psnr)
    )


def _best_time(run: Callable[[], list], repeats: int) -> tuple[list, float]:
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        result = run()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def _decode_all(data: bytes, ends: Int32[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w 3"]:
    return decode_frames(data, ends, range(len(ends)))


def _encode_h264(frames: UInt8[np.ndarray, "n h w 3"], crf: int) -> tuple[bytes]:
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=20, options={"crf": str(crf), "tune": "fastdecode"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return (file.getvalue(),)


def _decode_h264(film: bytes) -> UInt8[np.ndarray, "n h w 3"]:
    with av.open(io.BytesIO(film), "r") as container:
        container.streams.video[0].thread_count = 1
        planes = (frame.to_ndarray() for frame in container.decode(video=0))
        return np.stack([cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB_I420) for yuv in planes])
