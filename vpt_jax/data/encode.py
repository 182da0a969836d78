"""One recording to the records and actions of an episode, or a note that says why it is broken.

A worker process does it. The result appears whole, so a run that was killed goes on with what is missing.
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
from vpt_jax.recording import BrokenRecording, Steps, read_frames, read_steps, recording_file
from vpt_jax.system.atomic_files import atomic_write, publish, read_arrays, read_json, write_text
from vpt_jax.system.workers import unique_name
from vpt_jax.video import FRAME_RATE
from vpt_jax.video_files import name_problem, utf8_path


@dataclass(frozen=True)
class Settings:
    """Settings that decide, with the recordings, every byte of a dataset (fields: configs/prepare.py)."""

    height: int
    width: int
    chunk_frames: int
    quality: int
    layout: str = dataset.VERSION


class Recording(NamedTuple):
    """A recording, or some of its frames, and the place of the result: `.records` and, last, `.npz`; or `.broken`."""

    split: str
    name: str  # of the episode
    source: Path  # without suffix
    result: Path  # without suffix; the name changes with the settings and with the recording's two files
    size: int  # bytes of both files
    first: int = 0
    stop: int | None = None  # None: to the end

    def __str__(self) -> str:
        return f"{self.source.with_name(self.name)}"

    @property
    def is_done(self) -> bool:
        """True if this run or an earlier one has encoded it or noted why it is broken."""
        return self.is_intact or self.file(".broken").exists()

    @property
    def is_intact(self) -> bool:
        """True if it has been encoded."""
        return self.file(".npz").exists() and self.file(".records").exists()

    def file(self, suffix: str) -> Path:
        """A file of the result."""
        return add_suffix(self.result, suffix)

    def actions(self) -> dict[str, np.ndarray]:
        """The stored actions: `buttons` uint8 [n, 20] and `camera` float32 [n, 2]."""
        return read_arrays(self.file(".npz")) or {}

    def forget_damage(self) -> bool:
        """Removes the result if something of it cannot be read; the records are checked when joined."""
        note = read_json(self.file(".broken"))
        is_note = isinstance(note, dict) and all(isinstance(note.get(key), str) for key in ("file", "reason", "detail"))
        is_whole = self.actions().keys() == {"buttons", "camera"} and "stats" in self.recorded()
        if not self.is_done or (is_whole if self.is_intact else is_note):
            return False
        for suffix in (".npz", ".broken"):
            self.file(suffix).unlink(missing_ok=True)
        return True

    def recorded(self) -> dict[str, Any]:
        """Its `stats` (recorded_stats.py), `first_tick` and `last_tick`; empty if they cannot be read."""
        return read_json(self.file(".json")) or {}


def encode_episodes(parts: Sequence[Recording], settings: Settings) -> int:
    """Encodes a recording, or some segments of it, or notes why they are broken; returns the number of frames.

    Done twice, even at the same time, it does no harm: whoever is last replaces the same by the same.

    Args:
        parts: of one recording, in the order of time.
    """
    mp4, jsonl = (recording_file(parts[0].source, suffix) for suffix in (".mp4", ".jsonl"))
    files = {part: unique_name(part.result) for part in parts}
    observers = {part: RecordObserver(parts[0].source, slice(part.first, part.stop)) for part in parts}

    def observe(number: int, record: Mapping[str, Any]) -> None:
        for observer in observers.values():
            observer.observe(number, record)

    try:
        if problem := name_problem(jsonl):
            raise BrokenRecording(jsonl, "unreadable name", problem)
        steps = read_steps(jsonl, observe)
        rows = {part: kept for part in parts if (kept := _rows(part, len(steps.buttons)))}
        frames = read_frames(mp4, steps, settings.height, settings.width)
        _write_parts(rows, files, frames, steps, settings)
    except BrokenRecording as error:
        for part in parts:
            files[part].unlink(missing_ok=True)
            _note_broken(part, error)
        return 0
    for part in parts:
        if part in rows:
            _keep_recorded(part, observers[part])
            _keep(part, files[part], steps.buttons[rows[part]], steps.camera[rows[part]])
        else:
            _note_broken(part, BrokenRecording(jsonl, "too short", f"there are no steps {part.first} to {part.stop}"))
    return sum(kept.stop - kept.start for kept in rows.values())


def _rows(part: Recording, there: int) -> slice | None:
    """The steps that are asked for, or None if they are not there. A second may be missing: films' ends are rounded."""
    stop = there if part.stop is None else part.stop
    return slice(part.first, min(stop, there)) if part.first < there and stop < there + FRAME_RATE else None


def _write_parts(
    rows: Mapping[Recording, slice],
    files: Mapping[Recording, Path],
    frames: Iterator[np.ndarray],
    steps: Steps,
    settings: Settings,
) -> None:
    """Writes the records of some steps each. All frames are read, since only their end tells whether they fit."""
    position = 0
    for part, wanted in rows.items():
        deque(islice(frames, wanted.start - position), maxlen=0)
        kept = Steps(*(field[wanted] for field in steps))
        dataset.write_records(files[part], _records(part.name, frames, kept, settings))
        position = wanted.stop
    deque(frames, maxlen=0)


def _note_broken(part: Recording, error: BrokenRecording) -> None:
    note = {"file": utf8_path(error.path.name), "reason": error.reason, "detail": error.detail}
    write_text(part.file(".broken"), json.dumps(note))


def _keep_recorded(part: Recording, observer: RecordObserver) -> None:
    ticks = {"first_tick": observer.first_tick, "last_tick": observer.last_tick}
    write_text(part.file(".json"), json.dumps({"stats": observer.stats().as_dict()} | ticks))


def _keep(part: Recording, records: Path, buttons: np.ndarray, camera: np.ndarray) -> None:
    """Gives the records their name, and then the actions: with them a recording is done."""
    publish(records, part.file(".records"))
    with atomic_write(part.file(".npz")) as writing, writing.open("wb") as file:
        np.savez(file, buttons=buttons, camera=camera)


def _records(name: str, frames: Iterator[np.ndarray], steps: Steps, settings: Settings) -> Iterator[bytes]:
    """The serialised chunks of an episode; takes as many frames as there are steps."""
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
    """The path with a suffix after its whole name, dots and all."""
    return path.with_name(path.name + suffix)  # `with_suffix` would cut the name at its last dot
