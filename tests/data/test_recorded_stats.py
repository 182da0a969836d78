"""Recording statistics compared with manual counts, and with records of invalid content."""

import json
from pathlib import Path

import pytest

from vpt_jax.data import recorded_stats
from vpt_jax.data.recorded_stats import RecordedStats, RecordObserver, sum_stats


def stats_of(records, path="8.0_take", steps=slice(None)):
    observer = RecordObserver(Path(path), steps)
    for number, record in enumerate(records):
        observer.observe(number, record)
    return observer.stats()


def stack(name, quantity=1):
    return {"type": name, "quantity": quantity}


RECORDS = [
    {"isGuiOpen": False, "inventory": [], "stats": {"minecraft.mine_block:minecraft.oak_log": 2}, "serverTick": 6001},
    {"isGuiOpen": True, "inventory": [stack("oak_log", 3), stack("oak_log", 64)], "stats": {}},
    {
        "isGuiOpen": True,
        "inventory": [stack("oak_planks", 4), stack("air", 0)],
        "stats": {
            "minecraft.mine_block:minecraft.oak_log": 5, "minecraft.craft_item:minecraft.oak_planks": 4,
            "minecraft.custom:minecraft.jump": 9, "minecraft.pickup:minecraft.oak_log": 3,
        },
    },
    {"isGuiOpen": False, "inventory": [stack("oak_planks", 4)], "stats": {}, "serverTick": 6004},
]  # fmt: skip


def test_counts_exclude_play_before_the_recording():
    """Versions, open GUIs and items; the game's own counters start when its world is created."""
    stats = stats_of(RECORDS)
    assert (stats.recordings, stats.frames, stats.gui_frames, stats.versions) == (1, 4, 2, {"8.0": 1})
    assert stats.items == {
        "held": {"oak_log": 1, "oak_planks": 1}, "mined": {"oak_log": 3}, "crafted": {"oak_planks": 4},
        "picked up": {"oak_log": 3}, "used": {},
    }  # fmt: skip
    new_world = [{"stats": {"minecraft.pickup:minecraft.dirt": 50}}, {"stats": {"minecraft.pickup:minecraft.dirt": 2}}]
    assert stats_of(new_world).items["picked up"] == {"dirt": 2}
    part = stats_of(RECORDS, "take", slice(0, 2))
    assert (part.frames, part.gui_frames, part.items["held"], part.versions) == (
        2, 1, {"oak_log": 1}, {"none given": 1}
    )  # fmt: skip


def test_sums_survive_a_round_trip_through_json():
    parts = [RecordedStats(**json.loads(json.dumps(stats_of(RECORDS, path).as_dict()))) for path in ("6.9_a", "6.9/b")]
    both = sum_stats(parts)
    assert both.versions == {"6.9": 2}
    assert both.items["mined"] == {"oak_log": 6}
    summary = both.summary()
    assert summary == {"recordings": 2, "hours": 8 / 20 / 3600, "gui": 0.5, "versions": {"6.9": 2},
                       "items": {kind: dict(counts) for kind, counts in both.items.items()}}  # fmt: skip
    assert "items" not in sum_stats([]).summary()


@pytest.mark.parametrize(
    "value", [None, 3, "x", [], {}, [[]], [None, 3, "x"], [{"type": 3}], [{"type": "x" * 1000}], [{"type": "a\nb"}],
              {"minecraft.mine_block": 3}, {"minecraft.mine_block:minecraft.a": -3}, {"minecraft.mine_block:": 3},
              {"minecraft.mine_block:minecraft.a": True}, {"minecraft.mine_block:minecraft.a": 10**30},
              {"minecraft.mine_block:minecraft.a": "3"}, {":": 1}, float("nan")],
)  # fmt: skip
def test_invalid_fields_are_not_counted(value):
    record = dict.fromkeys(("inventory", "stats", "isGuiOpen", "serverTick", "version"), value)
    observer = RecordObserver(Path("take"))
    for number in range(2):
        observer.observe(number, record | {"isGuiOpen": False})
    stats = observer.stats()
    assert not any(stats.items.values())
    assert len(stats.versions) == 1
    json.dumps(stats.as_dict())


def test_number_of_counted_items_is_bounded(monkeypatch):
    records = [{}, {"inventory": [stack(f"item {i}") for i in range(5000)],
                    "stats": {f"minecraft.pickup:minecraft.item {i}": i for i in range(5000)}}]  # fmt: skip
    items = stats_of(records).items
    assert {kind: len(counts) for kind, counts in items.items() if counts} == {"held": 200, "picked up": 200}
    assert items["picked up"]["item 4999"] == 4999  # the most frequent
    monkeypatch.setattr(recorded_stats, "MAX_COUNTED_ITEMS", 300)
    many = [RecordedStats(items={"held": {f"{part} {i}": 1 + i for i in range(150)}}) for part in range(5)]
    assert len(sum_stats(many).items["held"]) <= 300
