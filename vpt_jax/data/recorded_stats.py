"""Recording metadata statistics: recorder version, open GUIs, items (not stored in frames and actions).

A record's `inventory` is a list of `{"type": "oak_log", "quantity": 3}`; its `stats` are the game's own counts in this
world so far, `{"minecraft.mine_block:minecraft.oak_log": 3}`. Both are untrusted and may be missing (BASALT's are
stripped) or hold anything: invalid values are skipped, and the size of the result is bounded.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from vpt_jax.contractor_names import recorder_version
from vpt_jax.video import FRAME_RATE

HELD = "held"  # number of recordings in which the item was held at some time
EVENTS = {"mine_block": "mined", "craft_item": "crafted", "pickup": "picked up", "use_item": "used"}  # of `stats`
UNKNOWN_VERSION = "none given"
MAX_ITEMS = 200  # most frequent items of each kind that are kept, per recording and in total
MAX_COUNTED_ITEMS = 10_000  # items of each kind before rare ones are dropped; the game has about a thousand
MAX_NAME_LENGTH = 64  # characters
MAX_EVENT_COUNT = 10**9  # larger counts are invalid


@dataclass
class RecordedStats:
    """Accumulated counts of recordings or segments of them."""

    recordings: int = 0
    frames: int = 0
    gui_frames: int = 0  # frames with an open GUI
    versions: Counter[str] = field(default_factory=Counter)  # number of recordings by recorder version
    items: dict[str, Counter[str]] = field(default_factory=dict)  # by kind: counts of items

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
            if len(self.items[kind]) > MAX_COUNTED_ITEMS:
                self.items[kind] = Counter(_most_frequent(self.items[kind]))

    def as_dict(self) -> dict[str, Any]:
        """JSON-serializable fields; `RecordedStats(**values)` restores them."""
        items = {kind: dict(counts) for kind, counts in self.items.items()}
        return vars(self) | {"versions": dict(self.versions), "items": items}

    def summary(self) -> dict[str, Any]:
        """Summary for a report; versions, and items if there are any, are limited to the `MAX_ITEMS` most frequent."""
        items = {kind: _most_frequent(counts) for kind, counts in self.items.items()}
        figures = {
            "recordings": self.recordings,
            "hours": self.frames / FRAME_RATE / 3600,
            "gui": self.gui_frames / self.frames if self.frames else 0.0,
            "versions": dict(sorted(_most_frequent(self.versions).items())),
        }
        return figures | ({"items": items} if any(items.values()) else {})


class RecordObserver:
    """Collects the statistics of a recording from its records, as a callback of `read_steps`.

    Args:
        recording: path, which may contain the recorder version.
        steps: range of steps to count; default: all.
    """

    def __init__(self, recording: PurePath, steps: slice = slice(None)):
        self.first_tick: int | None = None  # server tick of the first and the last record; None if missing
        self.last_tick: int | None = None
        self._version = recorder_version(recording)
        self._first, self._stop = steps.start or 0, steps.stop
        self._frames = self._gui_frames = 0
        self._inventory: Any = None
        self._held: set[str] = set()
        self._stats_before: Any = None
        self._stats: Any = None

    def observe(self, number: int, record: Mapping[str, Any]) -> None:
        """Counts a step, if it is in the range."""
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
        """Statistics of the observed steps."""
        stats = RecordedStats(1, self._frames, self._gui_frames, Counter([self._version or UNKNOWN_VERSION]))
        stats.items[HELD].update(sorted(self._held)[:MAX_ITEMS])
        for kind, item, count in _events(self._stats_before, self._stats):
            stats.items[kind][item] += count
        stats.items |= {kind: Counter(_most_frequent(counts)) for kind, counts in stats.items.items()}
        return stats


def sum_stats(parts: Iterable[RecordedStats]) -> RecordedStats:
    """Sums statistics."""
    result = RecordedStats()
    for part in parts:
        result.add(part)
    return result


def _most_frequent(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_ITEMS])


def _item_types(inventory: Any) -> Iterable[str]:
    for stack in inventory if isinstance(inventory, list) else ():
        if isinstance(stack, dict) and (name := _name(stack.get("type"))) and stack.get("quantity", 1) != 0:
            yield name


def _events(before: Any, after: Any) -> Iterable[tuple[str, str, int]]:
    """Yields kind, item and increase of each count since the earlier statistics; all counts if the world is new."""
    if not isinstance(after, dict):
        return
    before = before if isinstance(before, dict) else {}
    for key, value in after.items():
        event, _, item = key.partition(":")
        kind, name = EVENTS.get(event.removeprefix("minecraft.")), _name(item)
        if kind and name and _is_count(value):
            last = before.get(key, 0)
            increase = value - last if _is_count(last) and last <= value else value
            if increase:
                yield kind, name, increase


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_EVENT_COUNT


def _name(value: Any) -> str | None:
    """A printable name without the game's prefix, or None."""
    if not isinstance(value, str) or len(value) > MAX_NAME_LENGTH or not value.isprintable():
        return None
    return value.removeprefix("minecraft.").removeprefix("minecraft:")
