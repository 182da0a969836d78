"""Repair of key events by snapshots of all held keys, which some recorders store about once a second.

A key may be held when the recording begins, and events are lost when the recorder falls behind: then a snapshot
disagrees with the events so far. A snapshot that is taken in the very moment of an event may lack it, so a key that has
an event within `GRACE` of the snapshot is left alone.
"""

from bisect import bisect_left
from collections.abc import Sequence

GRACE = 100_000_000  # nanoseconds

KeyEvent = tuple[int, str, bool]  # time in nanoseconds, key, held
HeldState = tuple[int, frozenset[str]]  # time in nanoseconds, held keys


def missing_events(events: Sequence[KeyEvent], states: Sequence[HeldState], start: int) -> list[KeyEvent]:
    """Events that are missing between the events and the snapshots of one device.

    Args:
        events: of the device, in any order.
        states: snapshots of the device, in any order.
        start: of the recording, in nanoseconds: keys of the first snapshot without an event before it are held from
            there on.

    Returns:
        Presses and releases to add. A repaired event has the time of the snapshot that shows it.
    """
    queue = sorted(events, key=lambda event: event[0])
    times = _times_by_key(queue)
    held: set[str] = set()
    seen: set[str] = set()  # keys that have had an event
    added: list[KeyEvent] = []
    position = 0
    for number, (time, state) in enumerate(sorted(states, key=lambda state: state[0])):
        while position < len(queue) and queue[position][0] <= time:
            _, key, down = queue[position]
            (held.add if down else held.discard)(key)
            seen.add(key)
            position += 1
        for key in sorted(state ^ held):
            if _has_event_near(times.get(key, []), time):
                continue
            first = number == 0 and key not in seen
            added.append((min(start, time) if first else time, key, key in state))
            (held.add if key in state else held.discard)(key)
    return added


def _times_by_key(events: Sequence[KeyEvent]) -> dict[str, list[int]]:
    times: dict[str, list[int]] = {}
    for time, key, _ in events:
        times.setdefault(key, []).append(time)
    return times


def _has_event_near(times: list[int], time: int) -> bool:
    after = bisect_left(times, time - GRACE)
    return after < len(times) and times[after] <= time + GRACE
