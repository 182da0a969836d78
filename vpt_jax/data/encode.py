"""Encoding of one recording in a worker process: records and actions of an episode, or a note why it is broken.

Results are written atomically, so an interrupted run resumes with the recordings that are missing.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vpt_jax.actions.mapping import ActionMapping
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data import dataset
from vpt_jax.data.captions import Caption, CaptionObserver
from vpt_jax.data.codecs import encode_chunk
from vpt_jax.data.recorded_stats import RecordObserver
from vpt_jax.data.subtitles import find_subtitles, subtitle_captions
from vpt_jax.recording import BrokenRecordingError, Steps, read_frames, read_steps, recording_file
from vpt_jax.system.atomic_files import atomic_write, publish, read_arrays, read_json, write_text
from vpt_jax.system.workers import temporary_path
from vpt_jax.video import FRAME_RATE
from vpt_jax.video_files import name_problem, utf8_path

RECORDINGS = "recordings"  # source of OpenAI's format


@dataclass(frozen=True)
class EncodingSettings:
    """Settings that determine, with the recordings, every byte of a dataset (fields: configs/prepare.py)."""

    height: int
    width: int
    chunk_frames: int
    quality: int
    layout: str = dataset.VERSION
    space: ActionSpace = MINERL
    mapping: ActionMapping | None = None  # from the recorder's names to those of the space; None: equal names
    source: str = RECORDINGS  # OpenAI's format, or a bridge (bridges/registry.py)
    frames_per_second: float = 0.0  # of formats that store no times; 0: their default
    mouse_factors: tuple[tuple[str, float], ...] = ()  # by name of the recording

    @cached_property
    def stored(self) -> dict[str, Any]:
        """JSON values for the report; others than the frames' only if they are not the paper's."""
        frames = {name: getattr(self, name) for name in ("height", "width", "chunk_frames", "quality", "layout")}
        others = {
            "source": self.source if self.source != RECORDINGS else None,
            "space": self.space.to_dict() if self.space != MINERL else None,
            "mapping": self.mapping.to_dict() if self.mapping else None,
            "frames_per_second": self.frames_per_second or None,
            "mouse_factors": dict(self.mouse_factors) or None,
        }
        return frames | {name: value for name, value in others.items() if value is not None}


class Actions(NamedTuple):
    """Raw actions of all steps of a recording, in the dataset's action space."""

    buttons: np.ndarray  # uint8 [n, keys]
    camera: np.ndarray  # float32 [n, axes]


class Recording(NamedTuple):
    """A recording, or a range of its frames, and the path of its result: `.records`, then `.npz`; or `.broken`."""

    split: str
    name: str  # of the episode
    source: Path  # without suffix
    result: Path  # without suffix; its name contains a hash of the settings and of the recording's two files
    size: int  # bytes of both files
    first: int = 0
    stop: int | None = None  # None: to the end

    def __str__(self) -> str:
        return f"{self.source.with_name(self.name)}"

    @property
    def is_done(self) -> bool:
        """True if this run or an earlier one has encoded it or recorded why it is broken."""
        return self.is_intact or self.file(".broken").exists()

    @property
    def is_intact(self) -> bool:
        """True if it has been encoded."""
        return self.file(".npz").exists() and self.file(".records").exists()

    def file(self, suffix: str) -> Path:
        """Path of a result file."""
        return add_suffix(self.result, suffix)

    def actions(self) -> dict[str, np.ndarray]:
        """Stored actions: `buttons` uint8 [n, keys] and `camera` float32 [n, axes]; empty if they cannot be read."""
        return read_arrays(self.file(".npz")) or {}

    def remove_if_damaged(self) -> bool:
        """Removes a result with unreadable files, and returns whether it did; the records are checked when joined."""
        note = read_json(self.file(".broken"))
        is_note = isinstance(note, dict) and all(isinstance(note.get(key), str) for key in ("file", "reason", "detail"))
        is_complete = self.actions().keys() == {"buttons", "camera"} and "stats" in self.recorded()
        if not self.is_done or (is_complete if self.is_intact else is_note):
            return False
        for suffix in (".npz", ".broken"):
            self.file(suffix).unlink(missing_ok=True)
        return True

    def recorded(self) -> dict[str, Any]:
        """Stored `stats` (recorded_stats.py), `first_tick`, `last_tick`, `captions`; empty if they cannot be read."""
        return read_json(self.file(".json")) or {}

    def captions(self) -> list[Caption]:
        """Stored captions."""
        return [Caption(*caption) for caption in self.recorded().get("captions", [])]


def encode_episodes(segments: Sequence[Recording], settings: EncodingSettings) -> int:
    """Encodes a recording, or segments of it, or records why they are broken; returns the number of frames.

    Idempotent and safe to run concurrently: output is deterministic and renamed into place atomically.

    Args:
        segments: of one recording, in chronological order; the whole recording is one segment.
        settings: of the frames.
    """
    mp4, jsonl = (recording_file(segments[0].source, suffix) for suffix in (".mp4", ".jsonl"))
    files = {segment: temporary_path(segment.result) for segment in segments}
    observers = {
        segment: RecordObserver(segments[0].source, slice(segment.first, segment.stop)) for segment in segments
    }

    captions = {segment: CaptionObserver(slice(segment.first, segment.stop)) for segment in segments}

    def observe(number: int, record: Mapping[str, Any]) -> None:
        for segment in segments:
            observers[segment].observe(number, record)
            captions[segment].observe(number, record)

    try:
        if problem := name_problem(jsonl):
            raise BrokenRecordingError(jsonl, "unreadable name", problem)
        steps = read_steps(jsonl, observe)
        rows = {segment: kept for segment in segments if (kept := _rows(segment, len(steps.buttons)))}
        frames = read_frames(mp4, steps, settings.height, settings.width)
        actions = _in_space(steps, settings)
        _write_segments(rows, files, frames, actions, settings)
    except BrokenRecordingError as error:
        for segment in segments:
            files[segment].unlink(missing_ok=True)
            write_broken_note(segment, error)
        return 0
    for segment in segments:
        if segment in rows:
            texts = captions[segment].captions or _subtitles(mp4, rows[segment])
            write_stats(segment, observers[segment], texts)
            publish_result(segment, files[segment], _rows_of(actions, rows[segment]))
        else:
            missing = f"there are no steps {segment.first} to {segment.stop}"
            write_broken_note(segment, BrokenRecordingError(jsonl, "too short", missing))
    return sum(kept.stop - kept.start for kept in rows.values())


def _subtitles(mp4: Path, rows: slice) -> list[Caption]:
    """Captions from the subtitles beside a video."""
    file = find_subtitles(mp4)
    return subtitle_captions(file, rows.start, rows.stop) if file else []


def _rows(segment: Recording, num_steps: int) -> slice | None:
    """Requested steps, or None if they do not exist. A second may be missing, since ends of videos are rounded."""
    first, stop = segment.first, num_steps if segment.stop is None else segment.stop
    return slice(first, min(stop, num_steps)) if first < num_steps and stop < num_steps + FRAME_RATE else None


def _write_segments(
    rows: Mapping[Recording, slice],
    files: Mapping[Recording, Path],
    frames: Iterator[np.ndarray],
    actions: Actions,
    settings: EncodingSettings,
) -> None:
    """Writes the records of each segment. All frames are read, since only their end shows whether they match."""
    position = 0
    for segment, wanted in rows.items():
        deque(islice(frames, wanted.start - position), maxlen=0)
        kept = _rows_of(actions, wanted)
        jpegs = (encode_chunk([frame], settings.quality)[0] for frame in frames)
        dataset.write_records(files[segment], chunk_records(segment.name, jpegs, kept, settings))
        position = wanted.stop
    deque(frames, maxlen=0)


def _in_space(steps: Steps, settings: EncodingSettings) -> Actions:
    """Actions of OpenAI's format in the dataset's action space."""
    if settings.space == MINERL and settings.mapping is None:
        return Actions(steps.buttons, steps.camera)
    space = settings.space
    mapping = settings.mapping or ActionMapping.identity(space.keys, (axis.name for axis in space.axes))
    return Actions(*mapping.apply(MINERL, space, steps.buttons, steps.camera))


def _rows_of(actions: Actions, rows: slice) -> Actions:
    return Actions(*(field[rows] for field in actions))


def write_broken_note(segment: Recording, error: BrokenRecordingError, file: str = "") -> None:
    """Records why a recording is broken; `file`: its broken file, by default the name of the error's."""
    note = {"file": file or utf8_path(error.path.name), "reason": error.reason, "detail": error.detail}
    write_text(segment.file(".broken"), json.dumps(note))


def write_stats(segment: Recording, observer: RecordObserver, captions: Sequence[Caption] = ()) -> None:
    """Stores the statistics and captions that `Recording.recorded` returns."""
    recorded: dict[str, Any] = {"first_tick": observer.first_tick, "last_tick": observer.last_tick}
    recorded |= {"captions": captions} if captions else {}
    write_text(segment.file(".json"), json.dumps({"stats": observer.stats().as_dict()} | recorded))


def publish_result(segment: Recording, records: Path, actions: Actions) -> None:
    """Publishes the records, then the actions atomically: the `.npz` marks the recording as done."""
    publish(records, segment.file(".records"))
    with atomic_write(segment.file(".npz")) as writing, writing.open("wb") as file:
        np.savez(file, buttons=actions.buttons, camera=actions.camera)


def chunk_records(name: str, jpegs: Iterator[bytes], actions: Actions, settings: EncodingSettings) -> Iterator[bytes]:
    """Serialized chunks of an episode; consumes one JPEG per step."""
    total = len(actions.buttons)
    for chunk, first in enumerate(range(0, total, settings.chunk_frames)):
        rows = slice(first, first + settings.chunk_frames)
        kept = _rows_of(actions, rows)
        frames = list(islice(jpegs, len(kept.camera)))
        yield dataset.serialize_chunk(
            {
                "frames": b"".join(frames),
                "frame_ends": np.cumsum([len(jpeg) for jpeg in frames], dtype=np.int32),
                "buttons": kept.buttons,
                "camera": kept.camera,
                "confidence": np.ones(len(kept.camera), np.float32),
                "labels": "recorded",
                "episode": name,
                "chunk": chunk,
                "first_frame": first,
                "num_frames": total,
            },
            settings.space,
        )


def add_suffix(path: Path, suffix: str) -> Path:
    """Appends a suffix to a path's name."""
    return path.with_name(path.name + suffix)  # `with_suffix` would cut the name at its last dot
