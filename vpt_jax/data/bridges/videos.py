"""Videos of recordings: which file it is, and its frames by their presentation times, by number, or at given times."""

from collections.abc import Callable, Collection, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

from vpt_jax.recording import BrokenRecordingError
from vpt_jax.video import Frame, decode_timed
from vpt_jax.video_files import SUFFIXES, VideoError, is_video

_SHOWN = 100  # characters of a foreign text in a message


def files_named(folder: Path, stem: str, suffixes: Collection[str]) -> list[Path]:
    """The files of a name with any of these suffixes, in lower or upper case, sorted.

    Their names are tried one by one, since to list a folder for each of its recordings takes hours for a large one.
    """
    found: dict[tuple[int, int], Path] = {}  # once each: some file systems take "a.MP4" for "a.mp4"
    for suffix in suffixes:
        for name in (f"{stem}{suffix}", f"{stem}{suffix.upper()}"):
            if (path := folder / name).exists():
                found.setdefault((path.stat().st_dev, path.stat().st_ino), path)
    if not found:  # "a.Mp4"
        return sorted(path for path in folder.iterdir() if path.stem == stem and path.suffix.lower() in suffixes)
    return sorted(found.values())


def find_video(folder: Path, stem: str) -> Path | None:
    """Returns the video file of this name, with any suffix of a video; the first by name if there are several."""
    return next(iter(files_named(folder, stem, SUFFIXES)), None)


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


def timed_frames(video: Path, start: float = 0.0) -> Callable[[], Iterator[tuple[float, Frame]]]:
    """Returns a function that starts a pass over (time in seconds, frame) of a video, by its time stamps.

    Args:
        video: the file.
        start: time of the first frame, in seconds, on the clock of the events.
    """

    def frames() -> Iterator[tuple[float, Frame]]:
        first = None
        for time, frame in _decode(video):
            if time is None:
                raise BrokenRecordingError(video, "damaged video", "a frame has no time stamp")
            first = time if first is None else first
            yield start + float(time - first), frame

    return frames


def numbered_frames(video: Path, times: Sequence[float]) -> Callable[[], Iterator[tuple[float, Frame]]]:
    """Returns a function that starts a pass over (time in seconds, frame) of a video, of which frame i is at times[i].

    The pass raises `BrokenRecordingError` at its end if the numbers of frames and times differ by more than one: a
    recorder that is stopped may lose the last of either.
    """

    def frames() -> Iterator[tuple[float, Frame]]:
        number = 0
        for number, (_, frame) in enumerate(_decode(video), 1):
            if number <= len(times):
                yield float(times[number - 1]), frame
        if abs(number - len(times)) > 1:
            raise BrokenRecordingError(video, "frame count", f"{number} frames, but {len(times)} records of frames")

    return frames


def _decode(video: Path, start: float = 0.0) -> Iterator[tuple[Fraction | None, Frame]]:
    """Frames with their presentation times from `start` seconds on; errors are `BrokenRecordingError`."""
    try:
        yield from decode_timed(video, start)
    except FileNotFoundError as error:
        raise BrokenRecordingError(video, "missing video", "there is no such file") from error
    except VideoError as error:
        raise BrokenRecordingError(video, error.reason, error.detail) from error


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
        self._frames = _decode(video, start)
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
        return next(((float(time), frame) for time, frame in self._frames if time is not None), None)
