"""Virtual episodes: training on segments of a dataset's episodes without copying data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Int64

from vpt_jax.data.dataset import EpisodeIndex
from vpt_jax.data.manifest import VideoSegment
from vpt_jax.video import FRAME_RATE


@dataclass(frozen=True, kw_only=True)
class SegmentIndex(EpisodeIndex):
    """Index of segments in record order; `buttons`, `camera` and `confidence` still have rows for all frames."""

    full_index: EpisodeIndex
    episode: Int64[np.ndarray, " segments"]  # index in `full_index` of each segment's episode
    first: Int64[np.ndarray, " segments"]  # first frame in that episode

    @cached_property
    def starts(self) -> Int64[np.ndarray, " segments"]:
        """Row in `buttons` and `camera` of each segment's first frame."""
        return self.full_index.starts[self.episode] + self.first

    @cached_property
    def first_record(self) -> Int64[np.ndarray, " segments"]:
        """Record number of the first chunk of each segment's episode."""
        return self.full_index.first_record[self.episode]

    @property
    def first_frame(self) -> Int64[np.ndarray, " segments"]:
        """Position of each segment's first frame in those records."""
        return self.first


def make_segment_index(index: EpisodeIndex, segments: Sequence[VideoSegment], split: str) -> SegmentIndex:
    """Builds the index of the segments whose video is an episode of `index`, a split of a dataset.

    An episode has the name of its video without suffix; if there is none of that name, the name without a leading
    folder named like the split is tried.

    Raises:
        ValueError: no segment is in the split, two have the same name, or an episode ends a second before its segment.
    """
    numbers = {name: number for number, name in enumerate(index.names)}
    found = [
        (number, segment) for segment in segments if (number := _find_episode(segment, split, numbers)) is not None
    ]
    if not found:
        raise ValueError(
            f"none of the {len(segments)} segments is of an episode of {split!r}, such as {index.names[0]!r}"
            + "".join(f"; the first is {segment.name!r}" for segment in segments[:1])
        )
    found.sort(key=lambda pair: (pair[0], pair[1].start))
    episode = np.array([number for number, _ in found], np.int64)
    rows = np.array([(segment.frames.start, segment.frames.stop) for _, segment in found], np.int64)
    episode_lengths = index.lengths[episode]
    names = tuple(segment.name.removeprefix(f"{split}/") for _, segment in found)
    for name, (first, stop), length in zip(names, rows, episode_lengths, strict=True):
        if first >= length or stop >= length + FRAME_RATE:
            raise ValueError(f"segment {name}: its episode has {length} frames: is this the manifest of other videos?")
    if len(set(names)) < len(names):
        raise ValueError(f"two segments have the name {max(names, key=names.count)}")
    same = {field.name: getattr(index, field.name) for field in fields(EpisodeIndex)}
    lengths = np.minimum(rows[:, 1], episode_lengths) - rows[:, 0]
    return SegmentIndex(
        **same | {"names": names, "lengths": lengths}, full_index=index, episode=episode, first=rows[:, 0]
    )


def _find_episode(segment: VideoSegment, split: str, numbers: Mapping[str, int]) -> int | None:
    name = PurePosixPath(segment.video).with_suffix("").as_posix()
    return numbers.get(name, numbers.get(name.removeprefix(f"{split}/")))
