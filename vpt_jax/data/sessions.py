"""Joining of contiguous segments of a contractor's session into one episode.

Recorders cut a session into segments of up to five minutes, and some segments are lost (README of
openai/Video-Pre-Training, "Data format"). Two are contiguous if player, session and recorder version are the same and

- the second starts when the first ends, by the start times in their names and the first's frames at 20 per second.
  Recorders lag: after 6,000 frames, the next names of two published sessions are 310 and 330 seconds later. So the
  second may start late by `LATE_SHARE` of the first's length, or by `CLOCK_SECONDS` if that is more.
- the game's clock (`serverTick` of the records) continues, within `CLOCK_SECONDS`, if both have it. In a new world it
  restarts.

A name may denote several people: `treechop` is used by all contractors who were asked to chop trees, and one session
number occurs in names of several players, over months. If more than two segments could be contiguous, none is joined.

JPEGs are copied without re-encoding; only the records' boundaries move. Each segment is parsed separately: one that
begins with the attack button down may have lost it by the reference's rule for stuck buttons (recording.py), joined or
not.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.contractor_names import parse_name, recorder_version
from vpt_jax.data import dataset
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.system.atomic_files import atomic_write, read_arrays
from vpt_jax.video import FRAME_RATE

LATE_SHARE = 0.2
CLOCK_SECONDS = 2.0  # names have a resolution of one second

T = TypeVar("T")


class SegmentTiming(NamedTuple):
    """Time range of a segment, by its name and by the game's clock."""

    recording: Path  # its name contains player, session, recorder version and start time
    frames: int
    first_tick: int | None  # game clock at the first and at the last frame; None if missing
    last_tick: int | None


def is_contiguous(before: SegmentTiming, after: SegmentTiming) -> bool:
    """Returns whether a segment follows another one of its session without a gap."""
    if not (session := _session(before)) or session != _session(after):
        return False
    length = before.frames / FRAME_RATE
    late = (_start_time(after) - _start_time(before)).total_seconds() - length
    if not -CLOCK_SECONDS <= late <= max(CLOCK_SECONDS, LATE_SHARE * length):
        return False
    if before.last_tick is None or after.first_tick is None:
        return True
    return 0 < after.first_tick - before.last_tick <= CLOCK_SECONDS * FRAME_RATE


def group_contiguous(segments: Sequence[T], timing_of: Callable[[T], SegmentTiming]) -> list[list[T]]:
    """Groups segments into chains of contiguous ones, in the order of each chain's first segment.

    Ambiguous segments, where two could follow one or one could follow two, are not joined.
    """
    pairs = _immediate_successors(set(_contiguous_pairs([timing_of(segment) for segment in segments])))
    followers, leaders = Counter(before for before, _ in pairs), Counter(after for _, after in pairs)
    following = {before: after for before, after in pairs if followers[before] == leaders[after] == 1}
    later = set(following.values())
    return [
        [segments[i] for i in _follow_chain(first, following)] for first in range(len(segments)) if first not in later
    ]


def _contiguous_pairs(timings: Sequence[SegmentTiming]) -> Iterator[tuple[int, int]]:
    """Yields the index pairs of all contiguous segments, as (earlier, later)."""
    by_session = defaultdict(list)
    for number, timing in enumerate(timings):
        if (session := _session(timing)) is not None:
            by_session[session].append(number)
    for numbers in by_session.values():
        numbers.sort(key=lambda number: _start_time(timings[number]))
        for position, before in enumerate(numbers):
            longest = (1 + LATE_SHARE) * timings[before].frames / FRAME_RATE + CLOCK_SECONDS
            for after in numbers[position + 1 :]:
                if (_start_time(timings[after]) - _start_time(timings[before])).total_seconds() > longest:
                    break
                if is_contiguous(timings[before], timings[after]):
                    yield before, after


def _immediate_successors(pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """Removes pairs with another segment in between (transitive reduction).

    After a short segment, the next but one may also be within the tolerance.
    """
    following = defaultdict(set)
    for before, after in pairs:
        following[before].add(after)
    return {(a, c) for a, c in pairs if not any(c in following[b] for b in following[a])}


def _follow_chain(number: int | None, following: Mapping[int, int]) -> Iterator[int]:
    while number is not None:
        yield number
        number = following.get(number)


def _session(timing: SegmentTiming) -> tuple[str, str, str | None] | None:
    """Player, session and recorder version; None if the name lacks them or the start time."""
    parts = parse_name(timing.recording.name)
    return None if parts is None or parts.start is None else (*parts[:2], recorder_version(timing.recording))


def _start_time(timing: SegmentTiming) -> datetime:
    return parse_name(timing.recording.name).start  # type: ignore[union-attr, return-value]


def join_episode(
    result: Path, segments: Sequence[tuple[Path, str]], name: str, chunk_frames: int, space: ActionSpace = MINERL
) -> None:
    """Writes the records and actions of one episode from those of its segments, as if it were a single recording.

    If records of a segment are damaged, or do not match its actions, they are removed, so that the segment is encoded
    again, and nothing is written.

    Args:
        result: path of the episode without suffix: `.records`, then `.npz` are written atomically.
        segments: the same path of each segment, and its name, in chronological order.
        name: of the episode.
        chunk_frames: frames of a record; the last may hold fewer.
        space: of the actions.
    """
    actions = [read_arrays(_file(segment, ".npz")) or {} for segment, _ in segments]
    damaged = []
    for (segment, segment_name), arrays in zip(segments, actions, strict=True):
        try:
            frames = len(arrays["buttons"])
            dataset.check_episode(_file(segment, ".records"), frames, chunk_frames, segment_name, space)
        except (DatasetDamagedError, KeyError):
            damaged.append(segment)
    for segment in damaged:
        _file(segment, ".records").unlink(missing_ok=True)
    if damaged:
        return
    buttons, camera = (np.concatenate([arrays[field] for arrays in actions]) for field in ("buttons", "camera"))
    sources = [_file(segment, ".records") for segment, _ in segments]
    try:
        with atomic_write(_file(result, ".records")) as writing:
            dataset.write_records(writing, _join(sources, name, len(buttons), chunk_frames, space))
    except DatasetDamagedError:  # checksum mismatch
        for source in sources:
            if not _is_readable(source):
                source.unlink(missing_ok=True)
        return
    with atomic_write(_file(result, ".npz")) as writing, writing.open("wb") as file:
        np.savez(file, buttons=buttons, camera=camera)


def _is_readable(records: Path) -> bool:
    try:
        return all(dataset.read_records(records))
    except DatasetDamagedError:
        return False


def _file(result: Path, suffix: str) -> Path:
    return result.with_name(result.name + suffix)


def _join(sources: Sequence[Path], name: str, frames: int, chunk_frames: int, space: ActionSpace) -> Iterator[bytes]:
    steps = (step for source in sources for record in dataset.read_records(source) for step in _steps(record, space))
    for chunk, first in enumerate(range(0, frames, chunk_frames)):
        jpegs, *actions = zip(*islice(steps, chunk_frames), strict=True)
        fields = dict(zip(("buttons", "camera", "confidence"), map(np.stack, actions), strict=True))
        yield dataset.serialize_chunk(
            {
                "frames": b"".join(jpegs),
                "frame_ends": np.cumsum([len(jpeg) for jpeg in jpegs]).astype(np.int32),
                **fields,
                "labels": "recorded",
                "episode": name,
                "chunk": chunk,
                "first_frame": first,
                "num_frames": frames,
            },
            space,
        )


def _steps(record: bytes, space: ActionSpace) -> Iterator[tuple[bytes, Any, Any, Any]]:
    """Yields JPEG, buttons, camera and confidence of every frame of a record."""
    values = dataset.parse_chunk(record, space)
    start = 0
    for i, end in enumerate(values["frame_ends"]):
        yield values["frames"][start:end], values["buttons"][i], values["camera"][i], values["confidence"][i]
        start = end
