"""Statistics that only recordings tell, not their frames and actions: recorder version, open GUIs, items.

A record's `inventory` is a list of `{"type": "oak_log", "quantity": 3}`; its `stats` are the game's own counts in this
world so far, `{"minecraft.mine_block:minecraft.oak_log": 3}`. Both come from elsewhere and may be missing (BASALT's are
stripped) or hold anything: what cannot be counted is left out, and what is kept is bounded.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from vpt_jax.contractor_names import recorder_version
from vpt_jax.video import FRAME_RATE

HELD = "held"  # in this many recordings, at some time
EVENTS = {"mine_block": "mined", "craft_item": "crafted", "pickup": "picked up", "use_item": "used"}  # of `stats`
UNKNOWN_VERSION = "none given"
MOST_ITEMS = 200  # of each kind that are kept, of a recording and of all: the most frequent
MOST_COUNTED = 10_000  # of each kind before the rare ones are dropped; the game has about a thousand
LONGEST_NAME = 64  # characters
MOST_EVENTS = 10**9  # a larger count was not written by a game


@dataclass
class RecordedStats:
    """Counts of some recordings, or of parts of them."""

    recordings: int = 0
    frames: int = 0
    gui_frames: int = 0  # in which a GUI is open
    versions: Counter[str] = field(default_factory=Counter)  # recordings of each recorder version
    items: dict[str, Counter[str]] = field(default_factory=dict)  # by kind: how often of each item

    def __post_init__(self) -> None:
        self.versions = Counter(self.versions)
        self.items = {kind: Counter(self.items.get(kind, {})) for kind in (HELD, *EVENTS.values())}

    def add(self, other: "RecordedStats") -> None:
        """Adds the counts of other recordings."""
        self.recordings += other.recordings
        self.frames += other.frames
        self.gui_frames += other.gui_frames
        self.versions.update(other.versions)
        for kind, counts in other.items.items():
            self.items[kind].update(counts)
            if len(self.items[kind]) > MOST_COUNTED:
                self.items[kind] = Counter(_most_frequent(self.items[kind]))

    def as_dict(self) -> dict[str, Any]:
        """For JSON, and for `RecordedStats(**values)`."""
        items = {kind: dict(counts) for kind, counts in self.items.items()}
        return vars(self) | {"versions": dict(self.versions), "items": items}

    def summary(self) -> dict[str, Any]:
        """Figures for a report; `items`, if there are any, and versions are the `MOST_ITEMS` most frequent ones."""
        items = {kind: _most_frequent(counts) for kind, counts in self.items.items()}
        figures = {
            "recordings": self.recordings,
            "hours": self.frames / FRAME_RATE / 3600,
            "gui": self.gui_frames / self.frames if self.frames else 0.0,
            "versions": dict(sorted(_most_frequent(self.versions).items())),
        }
        return figures | ({"items": items} if any(items.values()) else {})


class RecordObserver:
    """Gathers the statistics of a recording from its records, as `read_steps` reads them.

    Args:
        recording: path, which tells the recorder version.
        steps: those that count, if not all do.
    """

    def __init__(self, recording: PurePath, steps: slice = slice(None)):
        self.first_tick: int | None = None  # of the game's server, in the first and the last record; None if not told
        self.last_tick: int | None = None
        self._version = recorder_version(recording)
        self._first, self._stop = steps.start or 0, steps.stop
        self._frames = self._gui_frames = 0
        self._inventory: Any = None
        self._held: set[str] = set()
        self._stats_before: Any = None
        self._stats: Any = None

    def observe(self, number: int, record: Mapping[str, Any]) -> None:
        """Counts a step, if it is one of those asked for."""
        if number < self._first or (self._stop is not None and number >= self._stop):
            return
        tick = record.get("serverTick")
        self.last_tick = tick if type(tick) is int else None
        if not self._frames:
            self.first_tick, self._stats_before = self.last_tick, record.get("stats")
            self._version = self._version or _name(record.get("version"))
        self._frames += 1
        self._gui_frames += record.get("isGuiOpen") is True
        self._stats = record.get("stats") or self._stats
        if (inventory := record.get("inventory")) != self._inventory:
            self._inventory = inventory
            self._held |= set(_item_types(inventory))

    def stats(self) -> RecordedStats:
        """The statistics of all that was observed."""
        stats = RecordedStats(1, self._frames, self._gui_frames, Counter([self._version or UNKNOWN_VERSION]))
        stats.items[HELD].update(sorted(self._held)[:MOST_ITEMS])
        for kind, item, count in _events(self._stats_before, self._stats):
            stats.items[kind][item] += count
        stats.items |= {kind: Counter(_most_frequent(counts)) for kind, counts in stats.items.items()}
        return stats


def total(parts: Iterable[RecordedStats]) -> RecordedStats:
    """The sum of some statistics."""
    whole = RecordedStats()
    for part in parts:
        whole.add(part)
    return whole


def _most_frequent(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST_ITEMS])


def _item_types(inventory: Any) -> Iterable[str]:
    for stack in inventory if isinstance(inventory, list) else ():
        if isinstance(stack, dict) and (name := _name(stack.get("type"))) and stack.get("quantity", 1) != 0:
            yield name


def _events(before: Any, after: Any) -> Iterable[tuple[str, str, int]]:
    """Counts of each event and item since the earlier statistics; in a new world, all counts."""
    if not isinstance(after, dict):
        return
    before = before if isinstance(before, dict) else {}
    for key, value in after.items():
        event, _, item = key.partition(":")
        kind, name = EVENTS.get(event.removeprefix("minecraft.")), _name(item)
        if kind and name and _is_count(value):
            last = before.get(key, 0)
            rise = value - last if _is_count(last) and last <= value else value
            if rise:
                yield kind, name, rise


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_EVENTS


def _name(value: Any) -> str | None:
    """A name that can be shown, without the game's prefix."""
    if not isinstance(value, str) or len(value) > LONGEST_NAME or not value.isprintable():
        return None
    return value.removeprefix("minecraft.").removeprefix("minecraft:")
