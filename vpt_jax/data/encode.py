"""Encoding of one recording in a worker process: records and actions of an episode, or a note why it is broken.

Results are written atomically, so an interrupted run resumes with the recordings that are missing.
"""

import json
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vpt_jax.data import dataset
from vpt_jax.data.codecs import encode_chunk
from vpt_jax.data.recorded_stats import RecordObserver
from vpt_jax.recording import BrokenRecordingError, Steps, read_frames, read_steps, recording_file
from vpt_jax.system.atomic_files import atomic_write, publish, read_arrays, read_json, write_text
from vpt_jax.system.workers import temporary_path
from vpt_jax.video import FRAME_RATE
from vpt_jax.video_files import name_problem, utf8_path


@dataclass(frozen=True)
class EncodingSettings:
    """Settings that determine, with the recordings, every byte of a dataset (fields: configs/prepare.py)."""

    height: int
    width: int
    chunk_frames: int
    quality: int
    layout: str = dataset.VERSION


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
        """Stored actions: `buttons` uint8 [n, 20] and `camera` float32 [n, 2]; empty if they cannot be read."""
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
        """Stored `stats` (recorded_stats.py), `first_tick` and `last_tick`; empty if they cannot be read."""
        return read_json(self.file(".json")) or {}


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

    def observe(number: int, record: Mapping[str, Any]) -> None:
        for observer in observers.values():
            observer.observe(number, record)

    try:
        if problem := name_problem(jsonl):
            raise BrokenRecordingError(jsonl, "unreadable name", problem)
        steps = read_steps(jsonl, observe)
        rows = {segment: kept for segment in segments if (kept := _rows(segment, len(steps.buttons)))}
        frames = read_frames(mp4, steps, settings.height, settings.width)
        _write_segments(rows, files, frames, steps, settings)
    except BrokenRecordingError as error:
        for segment in segments:
            files[segment].unlink(missing_ok=True)
            _write_broken_note(segment, error)
        return 0
    for segment in segments:
        if segment in rows:
            _write_stats(segment, observers[segment])
            _publish_result(segment, files[segment], steps.buttons[rows[segment]], steps.camera[rows[segment]])
        else:
            missing = f"there are no steps {segment.first} to {segment.stop}"
            _write_broken_note(segment, BrokenRecordingError(jsonl, "too short", missing))
    return sum(kept.stop - kept.start for kept in rows.values())


def _rows(segment: Recording, num_steps: int) -> slice | None:
    """Requested steps, or None if they do not exist. A second may be missing, since ends of videos are rounded."""
    first, stop = segment.first, num_steps if segment.stop is None else segment.stop
    return slice(first, min(stop, num_steps)) if first < num_steps and stop < num_steps + FRAME_RATE else None


def _write_segments(
    rows: Mapping[Recording, slice],
    files: Mapping[Recording, Path],
    frames: Iterator[np.ndarray],
    steps: Steps,
    settings: EncodingSettings,
) -> None:
    """Writes the records of each segment. All frames are read, since only their end shows whether they match."""
    position = 0
    for segment, wanted in rows.items():
        deque(islice(frames, wanted.start - position), maxlen=0)
        kept = Steps(*(field[wanted] for field in steps))
        dataset.write_records(files[segment], _records(segment.name, frames, kept, settings))
        position = wanted.stop
    deque(frames, maxlen=0)


def _write_broken_note(segment: Recording, error: BrokenRecordingError) -> None:
    note = {"file": utf8_path(error.path.name), "reason": error.reason, "detail": error.detail}
    write_text(segment.file(".broken"), json.dumps(note))


def _write_stats(segment: Recording, observer: RecordObserver) -> None:
    ticks = {"first_tick": observer.first_tick, "last_tick": observer.last_tick}
    write_text(segment.file(".json"), json.dumps({"stats": observer.stats().as_dict()} | ticks))


def _publish_result(segment: Recording, records: Path, buttons: np.ndarray, camera: np.ndarray) -> None:
    """Publishes the records, then the actions atomically: the `.npz` marks the recording as done."""
    publish(records, segment.file(".records"))
    with atomic_write(segment.file(".npz")) as writing, writing.open("wb") as file:
        np.savez(file, buttons=buttons, camera=camera)


def _records(name: str, frames: Iterator[np.ndarray], steps: Steps, settings: EncodingSettings) -> Iterator[bytes]:
    """Serialized chunks of an episode; consumes one frame per step."""
    total = len(steps.buttons)
    for chunk, first in enumerate(range(0, total, settings.chunk_frames)):
        rows = slice(first, first + settings.chunk_frames)
        data, ends = encode_chunk(islice(frames, len(steps.camera[rows])), settings.quality)
        yield dataset.serialize_chunk(
            {
                "frames": data,
                "frame_ends": ends,
                "buttons": steps.buttons[rows],
                "camera": steps.camera[rows],
                "confidence": np.ones(len(steps.camera[rows]), np.float32),
                "labels": "recorded",
                "episode": name,
                "chunk": chunk,
                "first_frame": first,
                "num_frames": total,
            }
        )


def add_suffix(path: Path, suffix: str) -> Path:
    """Appends a suffix to a path's name."""
    return path.with_name(path.name + suffix)  # `with_suffix` would cut the name at its last dot
