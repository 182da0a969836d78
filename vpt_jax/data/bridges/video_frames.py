"""Frames of a video by their presentation times, and the files that a recording may refer to."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from vpt_jax.recording import BrokenRecordingError
from vpt_jax.video import Frame, decode_timed
from vpt_jax.video_files import VideoError, is_video

_SHOWN = 100  # characters of a foreign text in a message


def file_inside(folder: Path, name: str, recording: Path) -> Path:
    """The video that a recording refers to, which must lie in `folder`, also after all links are followed.

    Args:
        folder: the only place that may be read.
        name: path relative to the folder, as the recording has it.
        recording: for errors.

    Raises:
        BrokenRecordingError: "missing video": it is elsewhere, is no file or no video.
    """
    shown = repr(name[:_SHOWN])
    elsewhere = BrokenRecordingError(
        recording, "missing video", f"it refers to {shown}, which is not in its folder: move the video there"
    )
    if "://" in name or "\0" in name or "\\" in name:
        raise elsewhere
    try:
        file = (folder / name).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise elsewhere
        if not file.is_file() or not is_video(file):
            raise BrokenRecordingError(recording, "missing video", f"it refers to {shown}: there is no such video")
    except (OSError, RuntimeError) as error:
        raise elsewhere from error
    return file


class FrameFinder:
    """Decodes a video once, and finds the frame nearest to each of many times in order.

    Args:
        video: the file.
        recording: for errors.
        tolerance: seconds from a requested time to the nearest frame; more is an error.
        start: seconds from the video's first frame; no earlier time is requested, so that frames may be skipped.
    """

    def __init__(self, video: Path, recording: Path, tolerance: float, start: float = 0.0) -> None:
        self.video = video
        self._recording, self._tolerance = recording, tolerance
        self._frames = decode_timed(video, start)
        self._current = self._take()
        self._following = self._take()
        self._requested = -float("inf")

    def at(self, time: float) -> Frame:
        """The frame nearest to `time` in seconds, by the video's own time stamps. Times must not decrease.

        Raises:
            BrokenRecordingError: the video is damaged, or shows nothing near this time ("frame count").
        """
        if time < self._requested:
            detail = f"{self.video.name}: frame at {time:.3f} s is asked for after that at {self._requested:.3f} s"
            raise BrokenRecordingError(self._recording, "bad value", detail)
        self._requested = time
        while self._following is not None and self._current is not None:
            if abs(self._following[0] - time) > abs(self._current[0] - time):
                break
            self._current, self._following = self._following, self._take()
        if self._current is None or abs(self._current[0] - time) > self._tolerance:
            nearest = "it has no frame" if self._current is None else f"the nearest is at {self._current[0]:.3f} s"
            detail = f"{self.video.name} shows nothing at {time:.3f} s: {nearest}"
            raise BrokenRecordingError(self._recording, "frame count", detail)
        return self._current[1]

    def _take(self) -> tuple[float, Frame] | None:
        """The next frame that has a time."""
        try:
            for time, frame in _timed(self._frames):
                return time, frame
        except VideoError as error:
            raise BrokenRecordingError(self._recording, error.reason, f"{self.video.name}: {error.detail}") from error
        return None


def _timed(frames: Iterator[tuple[Fraction | None, Frame]]) -> Iterator[tuple[float, Frame]]:
    return ((float(time), frame) for time, frame in frames if time is not None)
