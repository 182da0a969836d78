"""Segments of one session, joined to episodes where they follow one another in time.

Recorders cut a session into segments of up to five minutes, and some were lost on their way (README of
openai/Video-Pre-Training, "Data format"). Two are contiguous if player, session and recorder version are the same and

- the second starts when the first ends, by the start times in their names and the first's frames at 20 per second.
  Recorders fall behind: after 6,000 frames, the next names of two published sessions are 310 and 330 seconds later. So
  the second may start `LATE_SHARE` of the first's length late, or `CLOCK_SECONDS` where that is more.
- the game's clock (`serverTick` of the records) goes on, to within `CLOCK_SECONDS`, where both tell it. In a new world
  it starts anew.

A name may stand for several people: `treechop` is any contractor's who was asked to chop trees, and one session number
is in names of several players, over months. Where more than two segments could be contiguous, none is joined.

JPEGs are copied as they are; only the records' boundaries move. Each segment is read by itself: one that begins with
the attack button down may have lost it by the reference's rule for stuck buttons (recording.py), joined or not.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from vpt_jax.contractor_names import parse_name, recorder_version
from vpt_jax.data import dataset
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.system.atomic_files import atomic_write, read_arrays
from vpt_jax.video import FRAME_RATE

LATE_SHARE = 0.2
CLOCK_SECONDS = 2.0  # names are in whole seconds

T = TypeVar("T")


class Span(NamedTuple):
    """Time span of a segment, by its name and by the game's clock."""

    recording: Path  # whose name tells player, session, recorder version and start
    frames: int
    first_tick: int | None  # of the game's clock, at the first and at the last frame; None if not told
    last_tick: int | None


def is_contiguous(before: Span, after: Span) -> bool:
    """True if a segment follows another one of its session without a gap."""
    if not (session := _session(before)) or session != _session(after):
        return False
    length = before.frames / FRAME_RATE
    late = (_start(after) - _start(before)).total_seconds() - length
    if not -CLOCK_SECONDS <= late <= max(CLOCK_SECONDS, LATE_SHARE * length):
        return False
    if before.last_tick is None or after.first_tick is None:
        return True
    return 0 < after.first_tick - before.last_tick <= CLOCK_SECONDS * FRAME_RATE


def group_contiguous(segments: Sequence[T], span_of: Callable[[T], Span]) -> list[list[T]]:
    """Segments in groups that each follow one another, in the order of their first; others alone.

    Where two segments could follow one, or one two, it is not known which does, and none is joined.
    """
    pairs = _next_ones(set(_contiguous_pairs([span_of(segment) for segment in segments])))
    followers, leaders = Counter(before for before, _ in pairs), Counter(after for _, after in pairs)
    following = {before: after for before, after in pairs if followers[before] == leaders[after] == 1}
    later = set(following.values())
    return [[segments[i] for i in _chain(first, following)] for first in range(len(segments)) if first not in later]


def _contiguous_pairs(spans: Sequence[Span]) -> Iterator[tuple[int, int]]:
    """Numbers of all segments of which the second follows the first."""
    of_sessions = defaultdict(list)
    for number, span in enumerate(spans):
        if (session := _session(span)) is not None:
            of_sessions[session].append(number)
    for numbers in of_sessions.values():
        numbers.sort(key=lambda number: _start(spans[number]))
        for place, before in enumerate(numbers):
            longest = (1 + LATE_SHARE) * spans[before].frames / FRAME_RATE + CLOCK_SECONDS
            for after in numbers[place + 1 :]:
                if (_start(spans[after]) - _start(spans[before])).total_seconds() > longest:
                    break
                if is_contiguous(spans[before], spans[after]):
                    yield before, after


def _next_ones(pairs: set[tuple[int, int]]) -> set[tuple[int, int]]:
    """The pairs with nothing between them: after a short segment, the one behind it may seem to follow as well."""
    following = defaultdict(set)
    for before, after in pairs:
        following[before].add(after)
    return {(a, c) for a, c in pairs if not any(c in following[b] for b in following[a])}


def _chain(number: int | None, following: Mapping[int, int]) -> Iterator[int]:
    while number is not None:
        yield number
        number = following.get(number)


def _session(span: Span) -> tuple[str, str, str | None] | None:
    """Player, session and recorder version; None if the name does not tell them, and the start."""
    parts = parse_name(span.recording.name)
    return None if parts is None or parts.start is None else (*parts[:2], recorder_version(span.recording))


def _start(span: Span) -> datetime:
    return parse_name(span.recording.name).start  # type: ignore[union-attr, return-value]


def join_episode(result: Path, segments: Sequence[tuple[Path, str]], name: str, chunk_frames: int) -> None:
    """Writes the records and the actions of one episode from those of its segments, as if it were a recording.

    A segment whose records are damaged, or do not belong to its actions, loses them, so it is encoded anew; nothing is
    then written.

    Args:
        result: of the episode, without suffix: `.records` and then `.npz` are written, and appear whole.
        segments: the same of each segment, and its name, in the order of time.
        name: of the episode.
        chunk_frames: frames of a record; the last may hold fewer.
    """
    actions = [read_arrays(_file(segment, ".npz")) or {} for segment, _ in segments]
    damaged = []
    for (segment, segment_name), of_segment in zip(segments, actions, strict=True):
        try:
            frames = len(of_segment["buttons"])
            dataset.check_episode(_file(segment, ".records"), frames, chunk_frames, segment_name)
        except (DatasetDamagedError, KeyError):
            damaged.append(segment)
    for segment in damaged:
        _file(segment, ".records").unlink(missing_ok=True)
    if damaged:
        return
    buttons, camera = (np.concatenate([of_segment[field] for of_segment in actions]) for field in ("buttons", "camera"))
    sources = [_file(segment, ".records") for segment, _ in segments]
    try:
        with atomic_write(_file(result, ".records")) as writing:
            dataset.write_records(writing, _join(sources, name, len(buttons), chunk_frames))
    except DatasetDamagedError:  # a checksum is wrong
        for source in sources:
            if not _can_be_read(source):
                source.unlink(missing_ok=True)
        return
    with atomic_write(_file(result, ".npz")) as writing, writing.open("wb") as file:
        np.savez(file, buttons=buttons, camera=camera)


def _can_be_read(records: Path) -> bool:
    try:
        return all(dataset.read_records(records))
    except DatasetDamagedError:
        return False


def _file(result: Path, suffix: str) -> Path:
    return result.with_name(result.name + suffix)


def _join(sources: Sequence[Path], name: str, frames: int, chunk_frames: int) -> Iterator[bytes]:
    steps = (step for source in sources for record in dataset.read_records(source) for step in _steps(record))
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
            }
        )


def _steps(record: bytes) -> Iterator[tuple[bytes, Any, Any, Any]]:
    """JPEG, buttons, camera and confidence of every frame of a record."""
    values = dataset.parse_chunk(record)
    start = 0
    for i, end in enumerate(values["frame_ends"]):
        yield values["frames"][start:end], values["buttons"][i], values["camera"][i], values["confidence"][i]
        start = end
