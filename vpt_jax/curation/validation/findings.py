"""From what was seen of all episodes to findings: what is wrong, and where."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from vpt_jax.actions import is_null
from vpt_jax.curation.validation import leakage
from vpt_jax.curation.validation.alignment import CLEAR, FURTHEST, LEAST, SOME, Fit
from vpt_jax.curation.validation.duplicates import find_copies
from vpt_jax.curation.validation.episodes import Episode, open_source
from vpt_jax.curation.validation.records import Scan
from vpt_jax.data.dataset import EpisodeIndex
from vpt_jax.video import FRAME_RATE

KINDS = {
    "broken": "Index and records do not agree, or hold what cannot be",
    "duplicate": "The same footage, or the same actions, twice in a split",
    "leakage": "Held-out episodes that training has seen",
    "displaced": "Actions that come too early or too late for their frames",
    "does not fit": "Actions that are not those of their frames",
}


class Finding(NamedTuple):
    """Something that is wrong."""

    kind: str  # one of KINDS
    where: str  # the episode, or both, or the split
    detail: str


def broken(scans: Mapping[Episode, Scan]) -> Iterator[Finding]:
    """What is wrong with episodes by themselves, and splits with more records than their index has."""
    for split, of_split in groupby(scans, key=lambda episode: (episode.dataset, episode.split)):
        index = next(of_split).index
        expected, there = int((-(-index.lengths // index.chunk_frames)).sum()), len(open_source(*split))
        if there != expected:
            yield Finding("broken", split[1], f"{there} records, and the index speaks of {expected}")
        rows = {name: len(getattr(index, name)) for name in ("buttons", "camera", "confidence")}
        if wrong := [name for name, count in rows.items() if count != index.lengths.sum()]:
            yield Finding("broken", split[1], f"the index has more or fewer {', '.join(wrong)} than frames")
    for episode, scan in scans.items():
        for problem in scan.problems:
            yield Finding("broken", str(episode), problem)


def copies(scans: Mapping[Episode, Scan]) -> Iterator[Finding]:
    """Footage and actions that are there twice: duplicates in a split, leakage between two."""
    episodes, told = list(scans), set()
    for what in ("frames", "actions"):
        for group in _equal(scans, what):
            for other in group[1:]:
                told.add((group[0], other))
                yield _copied(group[0], other, f"the same {what} to the byte")
    for copy in find_copies([scan.hashes for scan in scans.values()]):
        first, second = episodes[copy.first], episodes[copy.second]
        if (first, second) not in told:
            seconds, starts = copy.frames / FRAME_RATE, (copy.first_start, copy.second_start)
            yield _copied(
                first, second, f"{seconds:.1f} s of the same footage, from frames {starts[0]} and {starts[1]}"
            )


def _equal(scans: Mapping[Episode, Scan], what: str) -> list[list[Episode]]:
    groups: dict[str, list[Episode]] = {}
    for episode, scan in scans.items():
        if what == "frames" or _is_busy(episode):
            groups.setdefault(getattr(scan, f"{what}_digest"), []).append(episode)
    return [group for group in groups.values() if len(group) > 1]


def _is_busy(episode: Episode) -> bool:
    """Whether its actions could hardly be another's by chance."""
    index: EpisodeIndex = episode.index
    null = is_null(np.asarray(index.buttons[episode.rows]), np.asarray(index.camera[episode.rows]))
    return int((~null).sum()) >= FRAME_RATE


def _copied(first: Episode, second: Episode, detail: str) -> Finding:
    kind = "duplicate" if first.split == second.split else "leakage"
    return Finding(kind, f"{first} and {second}", detail)


def shared(episodes: Sequence[Episode]) -> Iterator[Finding]:
    """Names, videos and sessions in more than one split."""
    for what, value, there in leakage.find_shared(episodes):
        splits = sorted({episode.split for episode in there})
        named = ", ".join(str(episode) for episode in there[:4]) + (", ..." if len(there) > 4 else "")
        yield Finding("leakage", named, f"{what} {value} is in {' and '.join(splits)}")


def misfits(fits: Mapping[Episode, Fit]) -> Iterator[Finding]:
    """Episodes whose actions are displaced, or not theirs.

    Displaced: another displacement is more likely than none by `CLEAR` standard errors.

    Not theirs: even so displaced they are not more likely, by `SOME` standard errors, than the same actions far away in
    the episode; although the model expects to tell them apart at least half as well as in the median episode. So
    where hardly anything happens, or the model knows little, nothing is found.
    """
    typical = float(np.median([fit.expected_gain for fit in fits.values()])) if fits else 0.0
    for episode, fit in fits.items():
        if fit.gain_z < SOME:
            if fit.expected_gain >= max(typical / 2, LEAST):
                detail = f"gain {fit.gain:.2f} nats a frame over the same actions elsewhere (z {fit.gain_z:.1f})"
                yield Finding("does not fit", str(episode), f"{detail}; {fit.expected_gain:.2f} if they were right")
        elif fit.late and fit.margin > CLEAR:
            yield Finding("displaced", str(episode), f"{describe(fit)} (z {fit.margin:.1f})")


def describe(fit: Fit) -> str:
    """By how much an episode's actions are displaced."""
    least = "at least " if abs(fit.late) == FURTHEST else ""
    return f"actions come {least}{abs(fit.late)} frames too {'late' if fit.late > 0 else 'early'}"
