"""Scan of single episodes: integrity of records, agreement of records and index, action values, perceptual hashes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8, UInt64

from vpt_jax.actions.space import ActionSpace
from vpt_jax.curation.validation.duplicates import hash_frame, longest_run
from vpt_jax.curation.validation.episodes import (
    Episode,
    digest_actions,
    digest_frames,
    open_source,
    read_records,
    shape_of_frames,
)
from vpt_jax.curation.validation.repeats import pixel_changes
from vpt_jax.data.codecs import decode_frames
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.system.atomic_files import atomic_write, read_arrays
from vpt_jax.video import FRAME_RATE


class Scan(NamedTuple):
    """Result of scanning an episode. Field names are array names on disk."""

    hashes: UInt64[np.ndarray, " frames"]  # of the frames that could be decoded
    frames_digest: str
    actions_digest: str
    changes: UInt8[np.ndarray, " frames"]  # of these frames: the largest of any pixel since the frame before
    problems: tuple[str, ...]


def scan_episode(episode: Episode, stuck_seconds: float, result: Path) -> None:
    """Scans an episode and writes the `Scan` to the file `result` by atomic rename; runs in a worker process.

    Keys held for longer than `stuck_seconds` are reported as stuck.
    """
    index = episode.index
    actions = (np.asarray(field[episode.rows]) for field in (index.buttons, index.camera, index.confidence))
    problems = list(check_actions(index.space, stuck_seconds, *actions))
    hashes: list[int] = []
    changes: list[int] = []
    last = None
    for problem, frames in _check_records(episode):
        problems += [problem] if problem else []
        hashes += [hash_frame(frame) for frame in frames]
        changes += pixel_changes(frames, last if len(frames) else None).tolist()
        last = frames[-1] if len(frames) else None
    with atomic_write(result) as writing, writing.open("wb") as file:
        np.savez(
            file,
            hashes=np.array(hashes, np.uint64),
            frames_digest=np.array(digest_frames(episode, checked=False)),
            actions_digest=np.array(digest_actions(episode)),
            changes=np.array(changes, np.uint8),
            problems=np.array(problems, np.str_),
        )


def load_scan(result: Path) -> Scan | None:
    """Loads the result that `scan_episode` stored; None if it is missing or damaged."""
    stored = read_arrays(result)
    if stored is None or stored.keys() != set(Scan._fields):
        return None
    digests = str(stored["frames_digest"]), str(stored["actions_digest"])
    return Scan(stored["hashes"], *digests, stored["changes"], tuple(stored["problems"].tolist()))


def check_actions(
    space: ActionSpace,
    stuck_seconds: float,
    buttons: UInt8[np.ndarray, "n keys"],
    camera: Float[np.ndarray, "n axes"],
    confidence: Float[np.ndarray, " n"],
) -> Iterator[str]:
    """Yields a message for each kind of value that no recorder or model writes, or that no player produces."""
    if (buttons > 1).any():
        yield f"button values are neither 0 nor 1 in {int((buttons > 1).any(1).sum())} frames"
    for axis, values in zip(space.axes, camera.T, strict=True):
        if frames := int((~(np.abs(values) <= axis.limit)).sum()):  # NaN too
            yield f"{axis.name} is NaN or larger than {axis.limit:g} {axis.unit} in {frames} frames"
    if not ((confidence >= 0) & (confidence <= 1)).all():
        yield "confidences are not between 0 and 1"
    for name, held in zip(space.keys, buttons.T, strict=True):
        start, frames = longest_run(held > 0)
        if frames > stuck_seconds * FRAME_RATE:
            yield f"{name} is held for {frames / FRAME_RATE:.0f} s from frame {start} on: a stuck key?"


def _check_records(episode: Episode) -> Iterator[tuple[str, UInt8[np.ndarray, "n h w 3"]]]:
    """For each record, the problem or "", and its frames if they can be decoded."""
    first, count, chunk = 0, 0, episode.index.chunk_frames
    no_frames = np.zeros((0, 8, 8, 3), np.uint8)
    for number, record in enumerate(read_records(episode)):
        count += 1
        if isinstance(record, DatasetDamagedError):
            first += chunk
            yield f"record {number} cannot be read: {record}", no_frames
            continue
        expected = _expected(episode, number, slice(first, min(first + chunk, episode.frames)))
        differ = [name for name, value in expected.items() if name in record and not _same(record[name], value)]
        differ += ["frame_ends"] if len(record["frame_ends"]) != len(expected["buttons"]) else []
        first += chunk
        if differ:
            yield f"record {number} and the index differ in {', '.join(differ)}", no_frames
            continue
        try:
            wanted = range(len(record["frame_ends"]))
            yield "", decode_frames(record["frames"], record["frame_ends"], wanted, shape_of_frames(episode))
        except ValueError as error:
            yield f"record {number}: {error}", no_frames
    if count < (records := -(-episode.frames // chunk)):
        available = len(open_source(episode.dataset, episode.split))
        yield f"{records - count} of {records} records are missing: the split has only {available}", no_frames


def _expected(episode: Episode, chunk: int, frames: slice) -> dict[str, Any]:
    """Fields of the record of some frames, according to the index."""
    start, index = episode.rows.start, episode.index
    rows = slice(start + frames.start, start + frames.stop)
    return {
        "episode": episode.name.encode(),
        "chunk": chunk,
        "first_frame": frames.start,
        "num_frames": episode.frames,
        "labels": index.labels.encode(),
        "buttons": index.buttons[rows],
        "camera": index.camera[rows],
        "confidence": index.confidence[rows],
    }


def _same(stored: Any, expected: Any) -> bool:
    if isinstance(expected, np.ndarray):
        return np.array_equal(stored, expected, equal_nan=expected.dtype.kind == "f")
    return stored == expected
