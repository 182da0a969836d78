"""Leakage between splits: held-out episodes that are in the training data by name, footage or recording session.

Compared between two splits:

- **name**: episodes of the same name; and episodes cut from one video, as segments of a manifest are (`VIDEO@0-100`).
- **footage**: the same stored frames, or a common run of frames by their perceptual hashes (`duplicates.py`).
- **session**: contractors' files are named `PLAYER-SESSION-DATE-TIME`, the session by twelve hexadecimal digits. Files
  of one player and session continue each other, in one world, or at least may: version 6 has one number for many
  sessions. Other names carry no session.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from vpt_jax.contractor_names import parse_name, video_name
from vpt_jax.curation.validation.episodes import Episode


class Shared(NamedTuple):
    """Episodes of several splits that have something in common."""

    attribute: str  # "name", "video" or "session"
    value: str
    episodes: tuple[Episode, ...]


def session_of(name: str) -> str | None:
    """Player and session of an episode in a contractor's file; None if it is not named like one."""
    parts = parse_name(name)
    return f"{parts.player}-{parts.session}" if parts else None


def find_shared(episodes: Sequence[Episode]) -> Iterator[Shared]:
    """Finds names, videos and sessions in more than one split; a group of episodes is reported by the closest only."""
    reported: set[frozenset[Episode]] = set()
    for attribute, value_of in (("name", str), ("video", video_name), ("session", session_of)):
        for value, members in _groups(episodes, value_of):
            group = frozenset(members)
            if len({episode.split for episode in members}) > 1 and not any(group <= other for other in reported):
                reported.add(group)
                yield Shared(attribute, value, tuple(members))


def _groups(
    episodes: Iterable[Episode], value_of: Callable[[str], str | None]
) -> Iterator[tuple[str, list[Episode]]]:  # fmt: skip
    groups = defaultdict(list)
    for episode in episodes:
        if (value := value_of(episode.name)) is not None:
            groups[value].append(episode)
    return iter(groups.items())
