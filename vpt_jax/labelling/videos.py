"""What worker processes do: videos of any size and rate to frames as the model takes them; films of the labels."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions import BUTTONS
from vpt_jax.data import dataset
from vpt_jax.data.codecs import encode_chunk
from vpt_jax.video import Frame, VideoError, VideoWriter, decode_timed, draw_action, fit_aspect, resample, resize

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v")
FILM_WIDTH = 640  # pixels, at least: smaller frames are enlarged, for the letters


@dataclass(frozen=True)
class FrameSettings:
    """What decides the stored frames (fields: configs/label.py)."""

    height: int
    width: int
    aspect: tuple[int, int]  # width to height, of the footage the model was trained on
    chunk_frames: int
    quality: int


def find_videos(folder: Path) -> dict[str, Path]:
    """The videos of a folder and its subfolders by name: their path in it without suffix, in order.

    Raises:
      ValueError: two videos have the same name.
    """
    videos: dict[str, Path] = {}
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in videos:
            raise ValueError(f"{videos[name]} and {path} would have the same name in the dataset: rename one")
        videos[name] = path
    return videos


def encode_video(video: Path, result: Path, settings: FrameSettings) -> int:
    """Stores the frames of a video at 20 per second, in chunks; returns how many.

    The result exists when it is whole: RESULT.records, and last RESULT.frames, which holds their number; or
    RESULT.broken, which says what is wrong with the video.
    """
    writing = Path(f"{result}.writing")
    count = np.zeros(1, int)
    try:
        dataset.write_records(writing, _records(_model_frames(video, settings, count), settings))
        if not count[0]:
            raise VideoError("unreadable video", "it has no frames")
    except VideoError as error:
        writing.write_text(f"{error.reason}\n{error.detail}")
        writing.rename(f"{result}.broken")
        return 0
    writing.rename(f"{result}.records")
    writing.write_text(str(count[0]))
    writing.rename(f"{result}.frames")
    return int(count[0])


def _model_frames(video: Path, settings: FrameSettings, count: np.ndarray) -> Iterator[Frame]:
    for frame in resample(decode_timed(video)):
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


def draw_film(video: Path, film: Path, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"]) -> None:
    """Writes the video at 20 frames per second with its labels drawn on it."""
    film.parent.mkdir(parents=True, exist_ok=True)
    frames = (_film_frame(frame) for frame in resample(decode_timed(video)))
    first = next(frames)
    with VideoWriter(film, *first.shape[:2]) as writer:
        writer.write(draw_action(first, buttons[0], camera[0]))
        for frame, keys, angles in zip(frames, buttons[1:], camera[1:], strict=True):
            writer.write(draw_action(resize(frame, *first.shape[:2]), keys, angles))  # a video may change its size


def _film_frame(frame: Frame) -> Frame:
    """Wide enough to read the letters; even in size."""
    factor = -(-FILM_WIDTH // frame.shape[1])
    height, width = (factor * size // 2 * 2 for size in frame.shape[:2])
    return resize(frame, height, width) if factor > 1 else frame[:height, :width]
