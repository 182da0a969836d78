"""Segments of a dataset's episodes, as if each were an episode of its own: training sees these, nothing is copied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Int64

from vpt_jax.data.dataset import EpisodeIndex
from vpt_jax.data.manifest import Segment
from vpt_jax.video import FRAME_RATE


@dataclass(frozen=True)
class SegmentIndex(EpisodeIndex):
    """Segments in the order of their records. `buttons`, `camera` and `confidence` still have a row for all frames."""

    whole: EpisodeIndex
    episode: Int64[np.ndarray, " segments"]  # of `whole`, that each segment is a part of
    first: Int64[np.ndarray, " segments"]  # frame of that episode

    @cached_property
    def starts(self) -> Int64[np.ndarray, " segments"]:
        """Row in `buttons` and `camera` of each segment's first frame."""
        return self.whole.starts[self.episode] + self.first

    @cached_property
    def first_record(self) -> Int64[np.ndarray, " segments"]:
        """Record number of the first chunk of each segment's episode."""
        return self.whole.first_record[self.episode]

    @property
    def first_frame(self) -> Int64[np.ndarray, " segments"]:
        """Position of each segment's first frame in those records."""
        return self.first


def select(index: EpisodeIndex, segments: Sequence[Segment], split: str) -> SegmentIndex:
    """Those segments whose video is an episode of `index`, a split of a dataset.

    An episode is called as its video, without suffix and, if there is none of that name, without a folder called as the
    split.

    Raises:
        ValueError: no segment is in the split, two have the same name, or an episode ends a second before its segment.
    """
    numbers = {name: number for number, name in enumerate(index.names)}
    found = [(number, segment) for segment in segments if (number := _episode(segment, split, numbers)) is not None]
    if not found:
        raise ValueError(
            f"none of the {len(segments)} segments is of an episode of {split!r}, such as {index.names[0]!r}"
            + "".join(f"; the first is {segment.name!r}" for segment in segments[:1])
        )
    found.sort(key=lambda pair: (pair[0], pair[1].start))
    episode = np.array([number for number, _ in found], np.int64)
    rows = np.array([(segment.frames.start, segment.frames.stop) for _, segment in found], np.int64)
    there = index.lengths[episode]
    names = tuple(segment.name.removeprefix(f"{split}/") for _, segment in found)
    for name, (first, stop), length in zip(names, rows, there, strict=True):
        if first >= length or stop >= length + FRAME_RATE:
            raise ValueError(f"segment {name}: its episode has {length} frames: is the manifest of other videos?")
    if len(set(names)) < len(names):
        raise ValueError(f"two segments are called {max(names, key=names.count)}")
    same = {field.name: getattr(index, field.name) for field in fields(EpisodeIndex)}
    lengths = np.minimum(rows[:, 1], there) - rows[:, 0]
    return SegmentIndex(**same | {"names": names, "lengths": lengths}, whole=index, episode=episode, first=rows[:, 0])


def _episode(segment: Segment, split: str, numbers: Mapping[str, int]) -> int | None:
    name = PurePosixPath(segment.video).with_suffix("").as_posix()
    return numbers.get(name, numbers.get(name.removeprefix(f"{split}/")))
