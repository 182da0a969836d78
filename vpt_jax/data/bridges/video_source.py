"""Frames of a video file with their times, for bridges whose recordings have one."""

from collections.abc import Callable, Iterator
from pathlib import Path

from vpt_jax.recording import BrokenRecordingError
from vpt_jax.video import Frame, decode_timed
from vpt_jax.video_files import VideoError, is_video


def find_video(folder: Path, stem: str) -> Path | None:
    """Returns the video file of this name, with any suffix of a video; the first by name if there are several."""
    found = sorted(path for path in folder.iterdir() if path.stem == stem and is_video(path))
    return found[0] if found else None


def video_frames(video: Path, start: float = 0.0) -> Callable[[], Iterator[tuple[float, Frame]]]:
    """Returns a function that starts a pass over (time in seconds, frame) of a video.

    Args:
        video: the file.
        start: time of the first frame, in seconds, on the clock of the events; the others follow by their time stamps.
    """

    def frames() -> Iterator[tuple[float, Frame]]:
        first = None
        try:
            for time, frame in decode_timed(video):
                if time is None:
                    raise BrokenRecordingError(video, "damaged video", "a frame has no time stamp")
                first = time if first is None else first
                yield start + float(time - first), frame
        except FileNotFoundError as error:
            raise BrokenRecordingError(video, "missing video", "there is no such file") from error
        except VideoError as error:
            raise BrokenRecordingError(video, error.reason, error.detail) from error

    return frames
