"""Time in which another program than the game had the focus, by topic "window" of an OWAMcap recording."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

EVER = 1e6  # seconds: before or after every recording


class ActiveWindow(NamedTuple):
    """The active window at a time."""

    time: int  # nanoseconds
    handle: int
    title: str


def lost_focus(
    windows: Sequence[ActiveWindow], origin: int
) -> tuple[tuple[tuple[float, float], ...], str, tuple[str, ...]]:
    """Times in which another window was active than the one that is active for the longest time: the game's.

    Windows are stored about once a second, so a change may have happened at any time since the one before: that time
    is excluded as well. A window of the same title counts as the same (the game was started again).

    Args:
        windows: in any order.
        origin: of the returned times, in nanoseconds.

    Returns:
        [start, end) in seconds; the title of the game's window, or ""; remarks.
    """
    ordered = sorted(windows, key=lambda window: window.time)
    if not ordered:
        return (), "", ()
    game = _longest(ordered)
    titles = {window.title for window in ordered if window.handle == game}
    excluded: list[tuple[float, float]] = []
    others: Counter[str] = Counter()
    since: float | None = None
    for number, window in enumerate(ordered):
        if window.handle == game or window.title in titles:
            if since is not None:
                excluded.append((since, (window.time - origin) / 1e9))
            since = None
            continue
        others[window.title] += 1
        if since is None:
            since = (ordered[number - 1].time - origin) / 1e9 if number else -EVER
    if since is not None:
        excluded.append((since, EVER))
    remarks = () if not excluded else (f"left out while other windows were active: {_list(others)}",)
    return tuple(excluded), max(titles, key=lambda title: (len(title), title)), remarks


def _longest(ordered: Sequence[ActiveWindow]) -> int:
    """Handle of the window that is active for the longest time; of the last one only if there is no other."""
    durations: Counter[int] = Counter({ordered[-1].handle: 0})
    for window, following in itertools.pairwise(ordered):
        durations[window.handle] += following.time - window.time
    return max(durations, key=lambda handle: (durations[handle], -handle))


def _list(counts: Counter[str]) -> str:
    return ", ".join(repr(title[:60]) for title, _ in counts.most_common(5))
