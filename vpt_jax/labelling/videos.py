"""What worker processes do: videos of any size and rate to frames as the model takes them; films of the labels."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions import BUTTONS
from vpt_jax.data import dataset
from vpt_jax.data.codecs import encode_chunk
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.manifest import SUFFIX, read_segments
from vpt_jax.state_files import publish, read_json, write_text
from vpt_jax.video import FRAME_RATE, Frame, VideoError, VideoWriter, draw_action, fit_aspect, resize, steady_frames
from vpt_jax.workers import unique_name

VIDEOS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
FILM_WIDTH = 640  # pixels, at least: smaller frames are enlarged, for the letters


@dataclass(frozen=True)
class FrameSettings:
    """What decides the stored frames (fields: configs/label.py)."""

    height: int
    width: int
    aspect: tuple[int, int]  # width to height, of the footage the model was trained on
    chunk_frames: int
    quality: int


class Clip(NamedTuple):
    """A video, or some of its frames at 20 per second."""

    video: Path
    first: int = 0
    stop: int | None = None  # None: to the end

    def __str__(self) -> str:
        return f"{self.video}" if self.stop is None else f"{self.video}, frames {self.first} to {self.stop}"

    @property
    def size(self) -> int:
        """Bytes of the whole file; 0 if there is none."""
        return self.video.stat().st_size if self.video.is_file() else 0

    def frames(self) -> Iterator[Frame]:
        """Its frames, as they are. VideoError where the video cannot be decoded, or is a second shorter or more."""
        count = 0
        for frame in steady_frames(self.video, self.first, self.stop):
            count += 1
            yield frame
        if self.stop is not None and self.first + count <= self.stop - FRAME_RATE:
            raise VideoError("too short", f"it has no frames {self.first + count} to {self.stop} (20 per second)")


def find_videos(source: Path) -> dict[str, Clip]:
    """What is to be labelled, by name, in order: videos of a folder and its subfolders, or segments of a manifest.

    A video's name is its path in the folder without suffix; a segment's has its frames added.

    Raises:
      ValueError: two have the same name, or the manifest is none (`ManifestError`).
    """
    if source.suffix == SUFFIX:
        found = [
            (segment.name, Clip(source.parent / segment.video, segment.frames.start, segment.frames.stop))
            for segment in read_segments(source)
        ]
    else:
        paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in VIDEOS and path.is_file())
        found = [(path.relative_to(source).with_suffix("").as_posix(), Clip(path)) for path in paths]
    videos: dict[str, Clip] = {}
    for name, clip in found:
        if name in videos:
            other = videos[name].video
            raise ValueError(f"{other} and {clip.video} would have the same name in the dataset: rename one")
        videos[name] = clip
    return videos


def encode_video(video: Clip, result: Path, settings: FrameSettings) -> int:
    """Stores the frames of a video at 20 per second, in chunks; returns how many.

    The result exists when it is whole: RESULT.records, and last RESULT.frames, which holds their number; or
    RESULT.broken, which says what is wrong with the video.
    """
    writing = unique_name(result)
    count = np.zeros(1, int)
    try:
        dataset.write_records(writing, _records(_model_frames(video, settings, count), settings))
        if not count[0]:
            raise VideoError("unreadable video", "it has no frames")
    except (VideoError, FileNotFoundError) as error:  # a manifest may name what is not there
        writing.unlink(missing_ok=True)
        reason, *detail = error.args if isinstance(error, VideoError) else ("missing video", "no such file")
        write_text(Path(f"{result}.broken"), json.dumps([reason, "\n".join(map(str, detail))]))
        return 0
    publish(writing, Path(f"{result}.records"))
    write_text(Path(f"{result}.frames"), str(count[0]))
    return int(count[0])


def read_result(result: Path, settings: FrameSettings) -> int | VideoError | None:
    """The number of frames that `encode_video` stored, or the error that it noted; None if its files are damaged."""
    found = read_json(Path(f"{result}.frames"))
    if isinstance(found, int) and found > 0:
        try:
            dataset.check_episode(Path(f"{result}.records"), found, settings.chunk_frames)
        except DatasetDamagedError:
            return None
        return found
    note = read_json(Path(f"{result}.broken"))
    if isinstance(note, list) and len(note) == 2 and all(isinstance(part, str) for part in note):
        return VideoError(*note)
    return None


def _model_frames(video: Clip, settings: FrameSettings, count: np.ndarray) -> Iterator[Frame]:
    for frame in video.frames():
        count += 1
        yield resize(fit_aspect(frame, *settings.aspect), settings.height, settings.width)


def _records(frames: Iterator[Frame], settings: FrameSettings) -> Iterator[bytes]:
    """Chunks of frames, their labels still empty."""
    while chunk := list(islice(frames, settings.chunk_frames)):
        data, ends = encode_chunk(chunk, settings.quality)
        yield dataset.serialize_chunk(
            {
                "frames": data,
                "frame_ends": ends,
                "buttons": np.zeros((len(chunk), len(BUTTONS)), np.uint8),
                "camera": np.zeros((len(chunk), 2), np.float32),
                "confidence": np.zeros(len(chunk), np.float32),
                "labels": "",
                "episode": "",
                "chunk": 0,
                "first_frame": 0,
                "num_frames": 0,
            }
        )


def draw_film(video: Clip, film: Path, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"]) -> None:
    """Writes the video at 20 frames per second with its labels drawn on it."""
    film.parent.mkdir(parents=True, exist_ok=True)
    frames = (_film_frame(frame) for frame in video.frames())
    first = next(frames)
    with VideoWriter(film, *first.shape[:2]) as writer:
        writer.write(draw_action(first, buttons[0], camera[0]))
        for frame, keys, angles in zip(frames, buttons[1:], camera[1:], strict=True):
            writer.write(draw_action(resize(frame, *first.shape[:2]), keys, angles))  # a video may change its size


def is_drawn(film: Path, frames: int) -> bool:
    """Whether a film is there, with so many frames; nothing is decoded for that."""
    try:
        with av.open(str(film)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0)) == frames
    except (av.FFmpegError, OSError, ValueError, IndexError):  # IndexError: no video stream
        return False


def _film_frame(frame: Frame) -> Frame:
    """Wide enough to read the letters; even in size."""
    factor = -(-FILM_WIDTH // frame.shape[1])
    height, width = (factor * size // 2 * 2 for size in frame.shape[:2])
    return resize(frame, height, width) if factor > 1 else frame[:height, :width]
