"""Whether held-out episodes were seen in training: by name, by footage, by the session that they are of.

What is compared between two splits:

- **name**: episodes of one name; and episodes cut from one video, which segments of a manifest are (`VIDEO@0-100`).
- **footage**: the same stored frames, or a common run of frames by their perceptual hashes (`duplicates.py`).
- **session**: contractors' files are named `PLAYER-SESSION-DATE-TIME`, the session by twelve hexadecimal digits. Files
  of one player and session continue each other, in one world, or at least may: version 6 has one number for many
  sessions. Of other names nothing is known.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from vpt_jax.contractor_names import parse_name, video_of
from vpt_jax.curation.validation.episodes import Episode


class Shared(NamedTuple):
    """Episodes of several splits that have something in common."""

    what: str  # "name", "video" or "session"
    value: str
    episodes: tuple[Episode, ...]


def session_of(name: str) -> str | None:
    """Player and session of an episode in a contractor's file; None if it is not named like one."""
    parts = parse_name(name)
    return f"{parts.player}-{parts.session}" if parts else None


def find_shared(episodes: Sequence[Episode]) -> Iterator[Shared]:
    """All names, videos and sessions that are in more than one split; each episode pair by the closest of them."""
    told: set[frozenset[Episode]] = set()
    for what, of in (("name", str), ("video", video_of), ("session", session_of)):
        for value, there in _groups(episodes, of):
            group = frozenset(there)
            if len({episode.split for episode in there}) > 1 and not any(group <= other for other in told):
                told.add(group)
                yield Shared(what, value, tuple(there))


def _groups(episodes: Iterable[Episode], of: Callable[[str], str | None]) -> Iterator[tuple[str, list[Episode]]]:
    groups = defaultdict(list)
    for episode in episodes:
        if (value := of(episode.name)) is not None:
            groups[value].append(episode)
    return iter(groups.items())
