"""What is rewarded: so much for every item obtained, up to a quantity (paper, table 7).

An item is obtained when its count in `info` rises, whatever else happens to it: what is used up, put down or lost is
not taken back, and what is taken up again counts once more, up to the quantity. What is there when an episode begins
does not count. Games name what they count; Doom's tasks count other things than items.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Reward(NamedTuple):
    """Of one item: for each, and for how many at most (None: no end)."""

    each: float
    quantity: int | None = None


RewardTable = Mapping[str, Reward]


def _tier(total: float, **quantities: int) -> dict[str, Reward]:
    """Items that are worth `total` each in all: the more are asked for, the less one is worth."""
    return {item: Reward(total / quantity, quantity) for item, quantity in quantities.items()}


_QUANTITIES = dict(
    log=8, planks=20, crafting_table=1, wooden_pickaxe=1, cobblestone=11, stone_pickaxe=1, furnace=1, coal=5, torch=16,
    iron_ore=3, iron_ingot=3, iron_pickaxe=1,
)  # fmt: skip

REWARDS: dict[str, RewardTable] = {
    # The way to a diamond pickaxe (paper, table 7): wood and stone 1, coal 2, iron 4, diamond 8. Of diamonds three
    # are asked for, and as the pickaxe they have no end.
    "diamond": {
        **_tier(1, log=8, planks=20, stick=16, crafting_table=1, wooden_pickaxe=1),
        **_tier(1, cobblestone=11, stone_pickaxe=1, furnace=1),
        **_tier(2, coal=5, torch=16),
        **_tier(4, iron_ore=3, iron_ingot=3, iron_pickaxe=1),
        "diamond": Reward(8 / 3),
        "diamond_pickaxe": Reward(8),
    },
    # The same way, where every kind of item is worth 1 (paper, appendix G.2).
    "diamond_even": {
        **_tier(1, **_QUANTITIES, stick=12),
        "diamond": Reward(1 / 3),
        "diamond_pickaxe": Reward(1),
    },
    "nothing": {},
    # Doom's tasks (doom_tasks.py says what is counted). A medikit gives 25 points of health.
    "explore": {"places": Reward(1)},
    "gather_health": {"health": Reward(1 / 25)},
    "collect": {"items": Reward(1)},
    "fight": {"kills": Reward(1), "hits": Reward(1 / 10)},
}


class Tally:
    """What has been obtained in an episode, and paid for."""

    def __init__(self, table: RewardTable, info: Mapping[str, float]):
        """`info` is the episode's first."""
        self._table, self.obtained = table, dict.fromkeys(table, 0.0)
        self._before = self._counts(info)

    def pay(self, info: Mapping[str, float]) -> float:
        """The reward of the step that led to `info`."""
        counts, reward = self._counts(info), 0.0
        for item, (each, quantity) in self._table.items():
            paid = self.obtained[item]
            self.obtained[item] += max(counts[item] - self._before[item], 0.0)
            limit = float("inf") if quantity is None else quantity
            reward += each * (min(self.obtained[item], limit) - min(paid, limit))
        self._before = counts
        return reward

    def _counts(self, info: Mapping[str, float]) -> dict[str, float]:
        return {item: info.get(item, 0.0) for item in self._table}
