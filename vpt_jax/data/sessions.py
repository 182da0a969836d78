"""Segments of one session, joined to episodes where they follow one another in time.

Recorders cut a session into segments of up to five minutes, and some were lost on their way (README of
openai/Video-Pre-Training, "Data format"). Two are contiguous if player, session and recorder version are the same and

- the second starts when the first ends, by the start times in their names and the first's frames at 20 per second.
  Recorders fall behind: after 6,000 frames, the next names of two published sessions are 310 and 330 seconds later. So
  the second may start `LATE_SHARE` of the first's length late, or `CLOCK_SECONDS` where that is more.
- the game's clock (`serverTick` of the records) goes on, to within `CLOCK_SECONDS`, where both tell it. In a new world
  it starts anew.

JPEGs are copied as they are; only the records' boundaries move. Each segment is read by itself: one that begins with
the attack button down may have lost it by the reference's rule for stuck buttons (recording.py), joined or not.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from vpt_jax.contractor_names import parse_name, recorder_version
from vpt_jax.data import dataset
from vpt_jax.video import FRAME_RATE
from vpt_jax.workers import unique_name

LATE_SHARE = 0.2
CLOCK_SECONDS = 2.0  # names are in whole seconds

T = TypeVar("T")


class Span(NamedTuple):
    """When a segment was recorded."""

    recording: Path  # whose name tells player, session, recorder version and start
    frames: int
    first_tick: int | None  # of the game's clock, at the first and at the last frame; None if not told
    last_tick: int | None


def is_contiguous(before: Span, after: Span) -> bool:
    """Whether a segment follows another one without a gap."""
    names = parse_name(before.recording.name), parse_name(after.recording.name)
    if names[0] is None or names[1] is None or names[0][:2] != names[1][:2]:
        return False
    if recorder_version(before.recording) != recorder_version(after.recording):
        return False
    if names[0].start is None or names[1].start is None:
        return False
    length = before.frames / FRAME_RATE
    late = (names[1].start - names[0].start).total_seconds() - length
    if not -CLOCK_SECONDS <= late <= max(CLOCK_SECONDS, LATE_SHARE * length):
        return False
    if before.last_tick is None or after.first_tick is None:
        return True
    return 0 < after.first_tick - before.last_tick <= CLOCK_SECONDS * FRAME_RATE


def group_contiguous(segments: Sequence[T], span_of: Callable[[T], Span]) -> list[list[T]]:
    """Segments in groups that each follow one another, in the order of their names; others alone."""
    groups: list[list[T]] = []
    last: Span | None = None
    for segment in segments:
        span = span_of(segment)
        if last is not None and is_contiguous(last, span):
            groups[-1].append(segment)
        else:
            groups.append([segment])
        last = span
    return groups


def join_episode(path: Path, sources: Sequence[Path], name: str, frames: int, chunk_frames: int) -> None:
    """Writes the records of one episode, a file which appears whole, from those of its segments.

    Args:
        sources: files of all records of each segment, in the order of time.
        name: of the episode.
        frames: of all segments.
        chunk_frames: frames of a record; the last may hold fewer.
    """
    writing = unique_name(path)
    dataset.write_records(writing, _join(sources, name, frames, chunk_frames))
    writing.rename(path)


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
