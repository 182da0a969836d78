"""Dataset statistics: size, episode lengths, key and camera usage, and statistics of recordings."""

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.dataset import EpisodeIndex
from vpt_jax.data.recorded_stats import RecordedStats, RecordObserver, sum_stats
from vpt_jax.recording import BrokenRecordingError, read_steps, recording_file
from vpt_jax.video import FRAME_RATE


@dataclass(frozen=True)
class Stats:
    """Statistics of a split; shares are of its frames. Field names are JSON keys in `stats.json`."""

    episodes: int
    frames: int
    hours: float
    labels: str  # "recorded" or "predicted"
    shortest: int  # frames of an episode
    median: float
    longest: int
    confidence: float  # mean probability of the labels; 1 if recorded
    null: float  # share of null actions, with binned camera
    held: dict[str, float]  # by key: share of frames in which it is down
    presses: dict[str, float]  # by key: how often it goes down, per minute
    axes: dict[str, list[float]]  # by axis: share of frames in each of its bins (MineRL: upwards, leftwards first)
    space: ActionSpace  # of the actions

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON object, with the shares of each axis under its name."""
        fields = asdict(self)
        del fields["space"]
        return fields | fields.pop("axes")


class _Counts(NamedTuple):
    """Counts over frames; they add up over episodes."""

    null: int
    held: np.ndarray
    presses: np.ndarray
    camera: np.ndarray  # [axes, bins]
    confidence: float


def split_stats(index: EpisodeIndex) -> Stats:
    """Computes the statistics of a split; reads the actions of one episode at a time."""
    counts = _sum(_count_all(index))
    frames = int(index.lengths.sum())
    minutes = frames / FRAME_RATE / 60
    space = index.space
    return Stats(
        episodes=len(index.names),
        frames=frames,
        hours=minutes / 60,
        labels=index.labels,
        shortest=int(index.lengths.min()),
        median=float(np.median(index.lengths)),
        longest=int(index.lengths.max()),
        confidence=float(counts.confidence / frames),
        null=float(counts.null / frames),
        held=dict(zip(space.keys, (counts.held / frames).tolist(), strict=True)),
        presses=dict(zip(space.keys, (counts.presses / minutes).tolist(), strict=True)),
        axes=dict(zip(space.axis_index, (counts.camera / frames).tolist(), strict=True)),
        space=space,
    )


def _sum(counts: Iterable[_Counts]) -> _Counts:
    return reduce(lambda a, b: _Counts(*map(operator.add, a, b)), counts)


def _count_all(index: EpisodeIndex) -> Iterator[_Counts]:
    for episode in range(len(index.names)):
        rows = index.rows(episode)
        fields = (index.buttons, index.camera, index.confidence)
        yield _count(index.space, *(np.asarray(field[rows]) for field in fields))


def _count(
    space: ActionSpace,
    buttons: UInt8[np.ndarray, "n keys"],
    camera: Float[np.ndarray, "n axes"],
    confidence: Float[np.ndarray, " n"],
) -> _Counts:
    held = buttons > 0
    before = np.concatenate([np.zeros((1, len(space.keys)), bool), held[:-1]])  # before an episode all keys are up
    bins = space.to_bins(camera)
    histograms = [np.bincount(axis, minlength=space.num_bins) for axis in bins.T]
    null = int(space.is_null(buttons, camera).sum())
    return _Counts(null, held.sum(0), (held & ~before).sum(0), np.array(histograms), float(confidence.sum(dtype=float)))


class Recorded(NamedTuple):
    """Statistics from a recording that a dataset's index does not contain."""

    stats: RecordedStats
    broken: str  # why it cannot be read, or ""


def read_recorded(recording: Path) -> Recorded:
    """Reads the .jsonl file of a recording, which is a path without suffix."""
    observer = RecordObserver(recording)
    try:
        read_steps(recording_file(recording, ".jsonl"), observer.observe)
    except BrokenRecordingError as error:
        return Recorded(RecordedStats(), error.reason)
    return Recorded(observer.stats(), "")


def recorded_stats(recordings: Sequence[Recorded]) -> dict[str, Any]:
    """Recorder versions, share of frames with an open GUI and item statistics of some recordings."""
    broken = Counter(recording.broken for recording in recordings if recording.broken)
    return sum_stats(recording.stats for recording in recordings).summary() | {"broken": dict(broken)}
