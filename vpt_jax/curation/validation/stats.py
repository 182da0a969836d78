"""How much there is in a dataset, and what is done in it."""

import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions import BUTTONS, CAMERA, is_null
from vpt_jax.data.dataset import EpisodeIndex
from vpt_jax.data.recorded_stats import RecordedStats, RecordObserver, total
from vpt_jax.recording import BrokenRecording, read_steps, recording_file
from vpt_jax.video import FRAME_RATE


@dataclass(frozen=True)
class Stats:
    """Figures of a split; shares are of its frames."""

    episodes: int
    frames: int
    hours: float
    labels: str  # "recorded" or "predicted"
    shortest: int  # frames of an episode
    median: float
    longest: int
    confidence: float  # mean probability of the labels; 1 if recorded
    null: float  # share in which nothing is done, once binned
    held: dict[str, float]  # by key: share of frames in which it is down
    presses: dict[str, float]  # by key: how often it goes down, per minute
    pitch: list[float]  # share of frames in each of the camera's 11 bins, upwards to downwards
    yaw: list[float]  # leftwards to rightwards

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class _Counts(NamedTuple):
    """Of one episode."""

    null: int
    held: np.ndarray
    presses: np.ndarray
    camera: np.ndarray  # [2, 11]
    confidence: float


def split_stats(index: EpisodeIndex) -> Stats:
    """The figures of a split; reads an episode's actions at a time."""
    counts = _sum(_count_all(index))
    frames = int(index.lengths.sum())
    minutes = frames / FRAME_RATE / 60
    pitch, yaw = (counts.camera / frames).tolist()
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
        held=dict(zip(BUTTONS, (counts.held / frames).tolist(), strict=True)),
        presses=dict(zip(BUTTONS, (counts.presses / minutes).tolist(), strict=True)),
        pitch=pitch,
        yaw=yaw,
    )


def _sum(counts: Iterable[_Counts]) -> _Counts:
    return reduce(lambda total, one: _Counts(*map(operator.add, total, one)), counts)


def _count_all(index: EpisodeIndex) -> Iterator[_Counts]:
    for episode in range(len(index.names)):
        rows = index.rows(episode)
        yield _count(*(np.asarray(field[rows]) for field in (index.buttons, index.camera, index.confidence)))


def _count(
    buttons: UInt8[np.ndarray, "n 20"], camera: Float[np.ndarray, "n 2"], confidence: Float[np.ndarray, " n"]
) -> _Counts:
    held = buttons > 0
    before = np.concatenate([np.zeros((1, len(BUTTONS)), bool), held[:-1]])  # before an episode all keys are up
    bins = CAMERA.to_bins(camera)
    of_axes = [np.bincount(of_axis, minlength=CAMERA.num_bins) for of_axis in bins.T]
    null = int(is_null(buttons, camera).sum())
    return _Counts(null, held.sum(0), (held & ~before).sum(0), np.array(of_axes), float(confidence.sum(dtype=float)))


class Recorded(NamedTuple):
    """Statistics that a recording tells and a dataset's index does not."""

    stats: RecordedStats
    broken: str  # why it cannot be read, or ""


def read_recorded(recording: Path) -> Recorded:
    """Reads the .jsonl of a recording, a path without suffix."""
    observer = RecordObserver(recording)
    try:
        read_steps(recording_file(recording, ".jsonl"), observer.observe)
    except BrokenRecording as error:
        return Recorded(RecordedStats(), error.reason)
    return Recorded(observer.stats(), "")


def recorded_stats(recordings: Sequence[Recorded]) -> dict[str, Any]:
    """Recorder versions, share of frames with an open GUI and item statistics of some recordings."""
    broken = Counter(one.broken for one in recordings if one.broken)
    return total(one.stats for one in recordings).summary() | {"broken": dict(broken)}
