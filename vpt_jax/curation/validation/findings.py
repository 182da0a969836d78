"""Findings of a validation: turns the results of all episodes into a list of problems and their places."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from vpt_jax.curation.validation import leakage
from vpt_jax.curation.validation.alignment import MAX_SHIFT, MIN_EXPECTED_GAIN, MIN_GAIN_Z, MIN_SHIFT_Z, Alignment
from vpt_jax.curation.validation.duplicates import find_copies
from vpt_jax.curation.validation.episodes import Episode, open_source
from vpt_jax.curation.validation.records import Scan
from vpt_jax.data.dataset import EpisodeIndex
from vpt_jax.video import FRAME_RATE

KINDS = {
    "broken": "Index and records differ, or hold invalid values",
    "duplicate": "Duplicate footage or actions within a split",
    "leakage": "Held-out episodes that are in the training data too",
    "displaced": "Actions that come too early or too late for their frames",
    "does not fit": "Actions that do not belong to their frames",
}


class Finding(NamedTuple):
    """A problem in a dataset. Field names are JSON keys in `validate.json`."""

    kind: str  # one of KINDS
    where: str  # the episode, or both, or the split
    detail: str


def integrity_findings(scans: Mapping[Episode, Scan]) -> Iterator[Finding]:
    """Problems within single episodes, and splits whose number of records or rows differs from their index."""
    for split, of_split in groupby(scans, key=lambda episode: (episode.dataset, episode.split)):
        index = next(of_split).index
        expected, num_records = int((-(-index.lengths // index.chunk_frames)).sum()), len(open_source(*split))
        if num_records != expected:
            yield Finding("broken", split[1], f"{num_records} records, but the index expects {expected}")
        rows = {name: len(getattr(index, name)) for name in ("buttons", "camera", "confidence")}
        if wrong := [name for name, count in rows.items() if count != index.lengths.sum()]:
            yield Finding("broken", split[1], f"the index has more or fewer {', '.join(wrong)} than frames")
    for episode, scan in scans.items():
        for problem in scan.problems:
            yield Finding("broken", str(episode), problem)


def copy_findings(scans: Mapping[Episode, Scan]) -> Iterator[Finding]:
    """Copies of footage and actions: duplicates within a split, leakage between two."""
    episodes, reported = list(scans), set()
    for content in ("frames", "actions"):
        for group in _equal_groups(scans, content):
            for other in group[1:]:
                reported.add((group[0], other))
                yield _copy_finding(group[0], other, f"the same {content} to the byte")
    for copy in find_copies([scan.hashes for scan in scans.values()]):
        first, second = episodes[copy.first], episodes[copy.second]
        if (first, second) not in reported:
            seconds, starts = copy.frames / FRAME_RATE, (copy.first_start, copy.second_start)
            yield _copy_finding(
                first, second, f"{seconds:.1f} s of the same footage, from frames {starts[0]} and {starts[1]}"
            )


def _equal_groups(scans: Mapping[Episode, Scan], content: str) -> list[list[Episode]]:
    """Groups of two or more episodes with equal digests of `content`, "frames" or "actions"."""
    groups: dict[str, list[Episode]] = {}
    for episode, scan in scans.items():
        if content == "frames" or _is_busy(episode):
            groups.setdefault(getattr(scan, f"{content}_digest"), []).append(episode)
    return [group for group in groups.values() if len(group) > 1]


def _is_busy(episode: Episode) -> bool:
    """True if at least a second of actions is not null: they could hardly equal another episode's by chance."""
    index: EpisodeIndex = episode.index
    null = index.space.is_null(np.asarray(index.buttons[episode.rows]), np.asarray(index.camera[episode.rows]))
    return int((~null).sum()) >= FRAME_RATE


def _copy_finding(first: Episode, second: Episode, detail: str) -> Finding:
    kind = "duplicate" if first.split == second.split else "leakage"
    return Finding(kind, f"{first} and {second}", detail)


def leakage_findings(episodes: Sequence[Episode]) -> Iterator[Finding]:
    """Names, videos and sessions that occur in more than one split."""
    for attribute, value, group in leakage.find_shared(episodes):
        splits = sorted({episode.split for episode in group})
        names = ", ".join(str(episode) for episode in group[:4]) + (", ..." if len(group) > 4 else "")
        yield Finding("leakage", names, f"{attribute} {value} is in {' and '.join(splits)}")


def alignment_findings(alignments: Mapping[Episode, Alignment]) -> Iterator[Finding]:
    """Episodes whose actions are displaced, or do not fit their frames.

    Displaced: another displacement is more likely than none by `MIN_SHIFT_Z` standard errors.

    Does not fit: even at the best displacement the actions are not more likely, by `MIN_GAIN_Z` standard errors, than
    the same actions far away in the episode; although the model expects at least half the gain that it expects in the
    median episode. So nothing is found where hardly anything happens, or where the model is too weak.
    """
    typical = float(np.median([one.expected_gain for one in alignments.values()])) if alignments else 0.0
    for episode, alignment in alignments.items():
        if alignment.gain_z < MIN_GAIN_Z:
            if alignment.expected_gain >= max(typical / 2, MIN_EXPECTED_GAIN):
                gain = f"gain {alignment.gain:.2f} nats per frame over the same actions elsewhere"
                expected = f"{alignment.expected_gain:.2f} expected if they were right"
                yield Finding("does not fit", str(episode), f"{gain} (z {alignment.gain_z:.1f}); {expected}")
        elif alignment.late and alignment.margin > MIN_SHIFT_Z:
            yield Finding("displaced", str(episode), f"{describe_shift(alignment)} (z {alignment.margin:.1f})")


def describe_shift(alignment: Alignment) -> str:
    """The displacement of an episode's actions, in words."""
    least = "at least " if abs(alignment.late) == MAX_SHIFT else ""
    return f"actions come {least}{abs(alignment.late)} frames too {'late' if alignment.late > 0 else 'early'}"
