"""Video preprocessing in worker processes: decode, resample to 20 Hz, resize, encode; videos with labels drawn on."""

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

from vpt_jax.action_overlay import draw_action
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data import dataset
from vpt_jax.data.codecs import encode_chunk
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.manifest import SUFFIX, read_segments
from vpt_jax.film_size import film_size, fit_inside
from vpt_jax.system.atomic_files import publish, read_json, write_text
from vpt_jax.system.errors import UserError
from vpt_jax.system.workers import temporary_path
from vpt_jax.video import FRAME_RATE, Frame, VideoError, VideoWriter, fit_aspect, resampled_frames, resize
from vpt_jax.video_files import UNREAD, content_digest, list_videos, name_problem, printable_path, utf8_path


@dataclass(frozen=True)
class FrameSettings:
    """Settings that determine the stored frames (fields: configs/label.py)."""

    height: int
    width: int
    aspect: tuple[int, int]  # width : height of the videos the model was trained on
    chunk_frames: int
    quality: int


class Clip(NamedTuple):
    """A video file, or a range of its frames at 20 per second."""

    video: Path
    first: int = 0
    stop: int | None = None  # None: to the end

    def __str__(self) -> str:
        name = utf8_path(self.video)
        return name if self.stop is None else f"{name}, frames {self.first} to {self.stop}"

    @property
    def size(self) -> int:
        """Bytes of the whole file; 0 if it is missing."""
        return self.video.stat().st_size if self.video.is_file() else 0

    def frames(self) -> Iterator[Frame]:
        """Decodes the frames at their original size.

        Raises:
          VideoError: the video cannot be decoded, or ends a second or more before `stop`.
        """
        count = 0
        for frame in resampled_frames(self.video, self.first, self.stop):
            count += 1
            yield frame
        if self.stop is not None and self.first + count <= self.stop - FRAME_RATE:
            raise VideoError("too short", f"it has no frames {self.first + count} to {self.stop} (20 per second)")


def find_videos(
    source: Path, outside: Path | None = None, log: Callable[[str], None] = lambda line: print(line, flush=True)
) -> dict[str, Clip]:
    """Finds the videos of a folder and its subfolders, or the segments of a manifest; by name, in order.

    A video's name is its path in the folder without suffix; a segment's has its frames added. Videos whose
    name cannot be stored in a dataset are included: reading one raises `VideoError`.

    Args:
      source: the folder, where links are followed (`video_files.list_videos`), or the manifest.
      outside: output path, which must not lie in any searched folder.
      log: called with one line for each unusable video, and one for the skipped files.

    Raises:
      ValueError: two videos have the same name, the manifest is invalid (`ManifestError`), or `outside` is inside.
    """
    if source.suffix == SUFFIX and not source.is_dir():
        found = [
            (segment.name, Clip(source.parent / segment.video, segment.frames.start, segment.frames.stop))
            for segment in read_segments(source)
        ]
    else:
        listing = list_videos(source)
        if outside and (inside := listing.folders.intersection(outside.parents)):
            raise ValueError(f"{outside} is inside {min(inside)}, which {source} links to: choose another path for it")
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


def require_videos(source: Path, error_class: type[UserError], outside: Path | None = None) -> dict[str, Clip]:
    """Finds videos as `find_videos`, at least one.

    Raises:
        UserError: of `error_class`: nothing is found, or as `find_videos`.
    """
    if not (source.is_dir() or (source.suffix == SUFFIX and source.is_file())):
        raise error_class(f"there is no folder of videos at {source}, and no manifest (NAME{SUFFIX})")
    try:
        videos = find_videos(source, outside)
    except ValueError as error:
        raise error_class(str(error)) from error
    if not videos:
        raise error_class(f"there are no videos in {source}")
    return videos


def content_keys(videos: Mapping[str, Clip]) -> dict[str, str]:
    """Content hashes of videos or segments, by name; independent of file names (`content_digest`).

    A second copy of the same content gets the suffix "#2", and so on. An unreadable video is identified by its name.
    """
    files = list(dict.fromkeys(clip.video for clip in videos.values()))
    with ThreadPoolExecutor(16) as pool:
        digests = dict(zip(files, pool.map(content_digest, files), strict=True))
    keys, copies = {}, Counter[str]()
    for name, clip in videos.items():
        digest = digests[clip.video]
        digest = f"{digest} {name}" if digest in UNREAD else digest  # missing files do not share their content
        key = digest if clip.stop is None else f"{digest}@{clip.first}-{clip.stop}"
        key = f"{key} unnamed" if name_problem(clip.video) else key  # after a rename it counts as another video
        copies[key] += 1
        keys[name] = key if copies[key] == 1 else f"{key}#{copies[key]}"
    return keys


def sampling_seed(key: str) -> int:
    """Random seed for sampling the labels of a video or segment (`EncodedVideo.sampling_seed`), from its content key.

    A second copy of the same content ("#2") has the same seed, so its labels are the same.
    """
    return int(hashlib.sha256(key.partition("#")[0].encode()).hexdigest()[:7], 16)


def encode_video(video: Clip, result: Path, settings: FrameSettings) -> int:
    """Encodes a video's frames at 20 per second as a file of records; returns the number of frames.

    Files are written atomically: RESULT.records, then RESULT.frames, which holds the number of frames; or, if the video
    is broken, RESULT.broken with the reason.
    """
    writing = temporary_path(result)
    count = np.zeros(1, int)
    try:
        dataset.write_records(writing, _records(_resized_frames(video, settings, count), settings))
        if not count[0]:
            raise VideoError("unreadable video", "it has no frames")
    except (VideoError, FileNotFoundError) as error:  # a manifest may name missing files
        writing.unlink(missing_ok=True)
        reason, *detail = error.args if isinstance(error, VideoError) else ("missing video", "no such file")
        write_text(Path(f"{result}.broken"), json.dumps([reason, "\n".join(map(str, detail))]))
        return 0
    publish(writing, Path(f"{result}.records"))
    write_text(Path(f"{result}.frames"), str(count[0]))
    return int(count[0])


def read_result(result: Path, settings: FrameSettings) -> int | VideoError | None:
    """Number of frames that `encode_video` stored, or the error that it recorded; None if its files are damaged."""
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


def _resized_frames(video: Clip, settings: FrameSettings, count: np.ndarray) -> Iterator[Frame]:
    for frame in video.frames():
        count += 1
        yield resize(fit_aspect(frame, *settings.aspect), settings.height, settings.width)


def _records(frames: Iterator[Frame], settings: FrameSettings) -> Iterator[bytes]:
    """Serialized chunks of frames with empty labels, of MineRL's space whatever the labels' space will be."""
    while chunk := list(islice(frames, settings.chunk_frames)):
        data, ends = encode_chunk(chunk, settings.quality)
        yield dataset.serialize_chunk(
            {
                "frames": data,
                "frame_ends": ends,
                "buttons": np.zeros((len(chunk), len(MINERL.keys)), np.uint8),
                "camera": np.zeros((len(chunk), len(MINERL.axes)), np.float32),
                "confidence": np.zeros(len(chunk), np.float32),
                "labels": "",
                "episode": "",
                "chunk": 0,
                "first_frame": 0,
                "num_frames": 0,
            }
        )


def render_film(
    video: Clip,
    film: Path,
    buttons: UInt8[np.ndarray, "n keys"],
    camera: Float[np.ndarray, "n axes"],
    space: ActionSpace = MINERL,
) -> str:
    """Writes a copy of the video at 20 frames per second with its labels drawn on, at a size that encoders accept.

    Returns the reason if no film could be written, else "": films serve visual inspection, and labels do not need them.
    """
    film.parent.mkdir(parents=True, exist_ok=True)
    frames = video.frames()
    first = next(frames)
    size = film_size(*first.shape[:2])
    try:
        with VideoWriter(film, *size) as writer:
            for frame, keys, angles in zip(chain([first], frames), buttons, camera, strict=True):
                writer.write(
                    draw_action(fit_inside(frame, *size), keys, angles, space=space)
                )  # a video may change its size
    except av.FFmpegError as error:
        if isinstance(error, OSError):  # a disk error, such as a full disk, not an error of this film
            raise
        return str(error)
    return ""


def is_film_complete(film: Path, frames: int) -> bool:
    """Returns whether the film exists and has this many frames; packets are counted, not decoded."""
    try:
        with av.open(str(film)) as container:
            return sum(packet.size > 0 for packet in container.demux(video=0)) == frames
    except (av.FFmpegError, OSError, ValueError, IndexError):  # IndexError: no video stream
        return False
