"""What worker processes do: videos of any size and rate to frames as the model takes them; films of the labels."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
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
from vpt_jax.film_size import film_size, fit_inside
from vpt_jax.system.atomic_files import publish, read_json, write_text
from vpt_jax.system.workers import unique_name
from vpt_jax.video import FRAME_RATE, Frame, VideoError, VideoWriter, draw_action, fit_aspect, resize, steady_frames
from vpt_jax.video_files import UNREAD, content_digest, list_videos, name_problem, printable_path, utf8_path


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
        name = utf8_path(self.video)
        return name if self.stop is None else f"{name}, frames {self.first} to {self.stop}"

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


def find_videos(
    source: Path, outside: Path | None = None, log: Callable[[str], None] = lambda line: print(line, flush=True)
) -> dict[str, Clip]:
    """The videos to be labelled, by name, in order: those of a folder and its subfolders, or segments of a manifest.

    A video's name is its path in the folder without suffix; a segment's has its frames added. Videos that cannot be
    named in a dataset are listed too: reading one is a `VideoError`.

    Args:
      source: the folder, in which links are followed (`video_files.list_videos`), or the manifest.
      outside: a path of results, which must not lie in any folder that is searched.
      log: called with a line on each video that cannot be used, and on the files that are passed over.

    Raises:
      ValueError: two have the same name, the manifest is none (`ManifestError`), or `outside` is not.
    """
    if source.suffix == SUFFIX and not source.is_dir():
        found = [
            (segment.name, Clip(source.parent / segment.video, segment.frames.start, segment.frames.stop))
            for segment in read_segments(source)
        ]
    else:
        listing = list_videos(source)
        if outside and (inside := listing.folders.intersection(outside.parents)):
            raise ValueError(f"{outside} lies in {min(inside)}, which {source} links to: choose another place for it")
        found = [(utf8_path(path.relative_to(source).with_suffix("").as_posix()), Clip(path))
                 for path in listing.videos]  # fmt: skip
        if line := listing.describe():
            log(line)
    videos: dict[str, Clip] = {}
    for name, clip in found:
        if name in videos:
            raise ValueError(f"{videos[name]} and {clip} would have the same name in the dataset: rename one")
        if problem := name_problem(clip.video):
            log(f"broken: {printable_path(clip.video)}: {problem}")
        videos[name] = clip
    return videos


def identify(videos: Mapping[str, Clip]) -> dict[str, str]:
    """The identity of every video or segment by content, whatever it is called (`content_digest`).

    A second copy of the same content has "#2" added, and so on. One that cannot be read is told by its name.
    """
    files = list(dict.fromkeys(clip.video for clip in videos.values()))
    with ThreadPoolExecutor(16) as pool:
        digests = dict(zip(files, pool.map(content_digest, files), strict=True))
    keys, copies = {}, Counter[str]()
    for name, clip in videos.items():
        digest = digests[clip.video]
        digest = f"{digest} {name}" if digest in UNREAD else digest  # files that are absent have no content in common
        key = digest if clip.stop is None else f"{digest}@{clip.first}-{clip.stop}"
        key = f"{key} unnamed" if name_problem(clip.video) else key  # renamed, it is another
        copies[key] += 1
        keys[name] = key if copies[key] == 1 else f"{key}#{copies[key]}"
    return keys


def draw_number(key: str) -> int:
    """A number by which labels are drawn (`plan.Video.number`), from the identity by content of a video or segment.

    A second copy of the same content ("#2") has the same number, so its labels are the same.
    """
    return int(hashlib.sha256(key.partition("#")[0].encode()).hexdigest()[:7], 16)


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


def draw_film(
    video: Clip, film: Path, buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"]
) -> str:  # fmt: skip
    """Writes the video at 20 frames per second with its labels drawn on it, at a size that encoders take.

    Returns why there is no film of it, or "": a film is there to be looked at, and the labels do not need it.
    """
    film.parent.mkdir(parents=True, exist_ok=True)
    frames = video.frames()
    first = next(frames)
    size = film_size(*first.shape[:2])
    try:
        with VideoWriter(film, *size) as writer:
            for frame, keys, angles in zip(chain([first], frames), buttons, camera, strict=True):
                writer.write(draw_action(fit_inside(frame, *size), keys, angles))  # a video may change its size
    except av.FFmpegError as error:
        if isinstance(error, OSError):  # the disk is full, or the like: not the film's fault
            raise
        return str(error)
    return ""


def is_drawn(film: Path, frames: int) -> bool:
    """True if the film exists and has this many frames; nothing is decoded."""
    try:
        with av.open(str(film)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0)) == frames
    except (av.FFmpegError, OSError, ValueError, IndexError):  # IndexError: no video stream
        return False
