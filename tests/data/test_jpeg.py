"""Stored frames are JPEGs of the dataset's shape, or rejected before they reach a decoder."""

import struct
import tracemalloc

import cv2
import numpy as np
import pytest

from vpt_jax.data import codecs
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.jpeg import MAX_PIXELS, jpeg_shape
from vpt_jax.data.streams import Stream, StreamSettings

from .tiny import SIZE, serialized, write_dataset

FRAME = np.random.default_rng(0).integers(0, 256, (24, 16, 3)).astype(np.uint8)


def encode(suffix, *options, frame=FRAME):
    return cv2.imencode(suffix, frame, options)[1].tobytes()


def resized(jpeg, height, width, bits=8):
    """The JPEG with another size in its frame header: a few hundred bytes may declare gigabytes."""
    place = jpeg.index(b"\xff\xc0")
    return jpeg[: place + 4] + struct.pack(">BHH", bits, height, width) + jpeg[place + 9 :]


JPEG = encode(".jpg")


def test_the_shape_of_a_jpeg_is_read_from_its_header():
    """Baseline and progressive, of any quality and chroma subsampling, with fill bytes and comments (attack M7)."""
    options = [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_QUALITY, 5), (cv2.IMWRITE_JPEG_RST_INTERVAL, 1)]
    for option in options:
        assert jpeg_shape(encode(".jpg", *option)) == FRAME.shape
    (data, ends) = codecs.encode_chunk([FRAME] * 2, quality=50, chroma=codecs.HALF_CHROMA)
    assert codecs.frame_shape(data, ends) == FRAME.shape
    comment = b"\xff\xfe\x00\x06\xff\xc0\xff\xc0"  # looks like a frame header inside
    assert jpeg_shape(JPEG[:2] + comment + b"\xff\xff" + JPEG[2:]) == FRAME.shape


REFUSED = {
    "nothing": (b"", "extends from byte 0 to 0"),
    "zeros": (b"\0" * 500, "not a JPEG"),
    "PNG": (encode(".png"), "is PNG, and not a JPEG"),
    "TIFF": (encode(".tiff"), "is TIFF, and not a JPEG"),
    "BMP": (encode(".bmp"), "is BMP, and not a JPEG"),
    "WebP": (encode(".webp"), "is WebP, and not a JPEG"),
    "PNM": (encode(".ppm"), "is PNM, and not a JPEG"),
    "HDR": (encode(".hdr", frame=FRAME.astype(np.float32)), "is HDR, and not a JPEG"),
    "GIF": (b"GIF89a" + b"\0" * 50, "is GIF, and not a JPEG"),
    "JPEG 2000": (b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 50, "is JPEG 2000, and not a JPEG"),
    "AVIF": (b"\0\0\0\x1cftypavif" + b"\0" * 50, "is AVIF or HEIF, and not a JPEG"),
    "a bomb": (resized(JPEG, 32000, 32000), "32000x32000: from 1 to 16,777,216 pixels"),
    "a long bomb": (resized(JPEG, 1, 65500)[:400] + JPEG, "1x65500x3"),
    "no lines": (resized(JPEG, 0, 16), "0x16"),
    "12 bits": (resized(JPEG, 24, 16, bits=12), "3 channels of 12 bits"),
    "grey": (encode(".jpg", frame=FRAME[..., 0]), "1 channels of 8 bits"),
    "another size": (resized(JPEG, 16, 24), "16x24x3, and the frames of this dataset are 24x16x3"),
    "arithmetic coding": (JPEG.replace(b"\xff\xc0", b"\xff\xc9"), "kind SOF9"),
    "lossless": (JPEG.replace(b"\xff\xc0", b"\xff\xc3"), "kind SOF3"),
    "no frame header": (JPEG[: JPEG.index(b"\xff\xc0")], "no frame header"),
    "half a frame header": (JPEG[: JPEG.index(b"\xff\xc0") + 7], "ends in its frame header"),
    "only its end": (b"\xff\xd8\xff\xd9" * 20, "no frame header"),
    "segments without end": (b"\xff\xd8" + b"\xff\xfe\x00\x02" * 100_000 + JPEG[2:], "no frame header"),
    "segments of no length": (b"\xff\xd8" + b"\xff\xfe\x00\x00" * 10 + JPEG[2:], "no frame header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_other_formats_and_invalid_jpegs_are_refused(case, monkeypatch):
    """OpenCV never gets the bytes, even of formats that it could decode (attack M7)."""
    data, message = REFUSED[case]
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("OpenCV got the bytes"))
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        codecs.decode_frames(data + b"x", np.array([len(data)], np.int32), [0], FRAME.shape)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_jpeg_that_cannot_be_decoded_is_a_value_error(monkeypatch):
    """Errors of OpenCV become ValueError as well (attack M2)."""
    ends = np.array([len(JPEG)], np.int32)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    with pytest.raises(ValueError, match="not a JPEG that can be decoded"):
        codecs.decode_frames(JPEG, ends, [0])

    def fail(*_):
        raise cv2.error("CV_IO_MAX_IMAGE_PIXELS")

    monkeypatch.setattr(cv2, "imdecode", fail)
    with pytest.raises(ValueError, match="cannot be decoded: CV_IO"):
        codecs.decode_frames(JPEG, ends, [0])


@pytest.mark.parametrize("ends", [[], [5], [0], [-3], [10**6], [2**31 - 1], [len(JPEG), 7], [len(JPEG), len(JPEG)]])
def test_invalid_end_offsets_are_refused(ends):
    """Too few, negative, decreasing, or beyond the end of the bytes (attack L4)."""
    with pytest.raises(ValueError, match=r"frame|JPEG"):
        codecs.decode_frames(JPEG, np.array(ends, np.int32), [max(0, len(ends) - 1)])
    with pytest.raises(ValueError, match=r"it holds \d frames, and frame -1 was requested"):
        codecs.decode_frames(JPEG, np.array(ends, np.int32), [-1])


def bomb(name, pictures, chunk, *rest):
    """Serializes a record; from the second on, its first frame declares the largest accepted size."""
    changes = {"frames": resized(codecs.encode_chunk(pictures)[0], 4096, 4096)} if chunk else {}
    return serialized(name, pictures, chunk, *rest, **changes)


def test_a_stream_refuses_frames_of_another_shape(tmp_path):
    """All frames have the shape of the first, and that is bounded (attack M7)."""
    data = write_dataset(tmp_path / "data", [8], record=bomb)
    stream = Stream(StreamSettings(str(data), "train", batch=1, length=4, nulls="keep"))
    assert stream.frame_shape == (SIZE, SIZE, 3)
    stream.read(0, [0])
    with pytest.raises(DatasetDamagedError, match=r"record 1, of episode train0.*4096x4096x3, and the frames .* 8x8x3"):
        stream.read(1, [0])
    assert MAX_PIXELS == 4096 * 4096
