"""Videos of exported episodes: H.264 at 20 frames per second, of any size, with a key frame twice a second."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from vpt_jax.video import FRAME_RATE, PRESET, Frame

LOSSLESS = 0  # as `crf`: RGB without loss, which needs FFmpeg or a program based on it to play
_KEY_FRAMES = 10  # frames from one to the next: training reads at random places


def write_frames(path: Path, frames: Iterable[Frame], crf: int) -> tuple[int, int]:
    """Writes a video, and returns its height and width.

    Args:
        path: overwritten if it exists; the caller renames it into place.
        frames: RGB, all of one size, at least one.
        crf: constant quality of x264, 1 (best) to 51; or `LOSSLESS`.
    """
    stream: Any = None
    reformatter = VideoReformatter()
    shape: tuple[int, ...] = ()
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        for frame in frames:
            if stream is None:
                shape = frame.shape
                stream = _add_stream(container, shape[0], shape[1], crf)
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(reformatter.reformat(picture, format=stream.pix_fmt, threads=1)))
        if stream is None:
            raise ValueError(f"{path}: no frame was written")
        container.mux(stream.encode(None))
    return shape[0], shape[1]


def pixel_format(height: int, width: int, crf: int) -> str:
    """FFmpeg's name of the pixels of a video: colour at half the resolution needs even sizes."""
    return "gbrp" if crf == LOSSLESS else "yuv444p" if height % 2 or width % 2 else "yuv420p"


def _input_format(height: int, width: int, crf: int) -> str:
    return "rgb24" if crf == LOSSLESS else pixel_format(height, width, crf)


def _add_stream(container: Any, height: int, width: int, crf: int) -> Any:
    codec = "libx264rgb" if crf == LOSSLESS else "libx264"
    # Without B-frames the first frame is at time zero in every reader.
    options = {"crf": str(crf), "preset": PRESET, "bf": "0", "g": str(_KEY_FRAMES)}
    stream = container.add_stream(codec, rate=FRAME_RATE, options=options)
    stream.height, stream.width, stream.pix_fmt = height, width, _input_format(height, width, crf)
    stream.time_base = stream.codec_context.time_base = Fraction(1, FRAME_RATE)
    stream.codec_context.thread_count = 1
    return stream
