"""Rewards: so much for every item obtained, up to a quantity (paper, table 7).

Nothing counts twice: an item is obtained when what is held of it, plus what is known to have been used up in crafting,
rises above the highest that it has been in the episode. So what is put down, dropped, placed, stored, or lost by dying
pays nothing when it is taken up again, and neither does more of it until there is more than ever before. What is there
when an episode begins does not count. The paper says "per item, up to quantity", and not how OpenAI counted.

Known are these events:

- **counts** of items held, in `info` under the item's name: of all games;
- **crafting and smelting** (`CRAFTING_RECIPES`): a product that rises above its highest has used up its ingredients,
  as far as these are missing;
- **what a game counts as crafted** (`crafted.ITEM` in `info`; MineRL's `craft_item`): all of it has been obtained, so a
  torch that is crafted after another was placed pays as well.

Not known are fuel, food, placed blocks and broken tools: what replaces them pays once there is more than ever before.
Games name what they count. Doom's tasks count things that cannot be put down, some of which fall for other reasons:
of health, which the player loses, every rise counts (`Reward.every_rise`).
"""

from collections.abc import Mapping
from typing import NamedTuple


class Reward(NamedTuple):
    """Of one item: for each, and for how many at most (None: no end)."""

    each: float
    quantity: int | None = None
    every_rise: bool = False  # of what cannot be put down and taken up again: every rise of its count is obtained


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
    "gather_health": {"health": Reward(1 / 25, every_rise=True)},
    "collect": {"items": Reward(1)},
    "fight": {"kills": Reward(1), "hits": Reward(1 / 10)},
}


class CraftingRecipe(NamedTuple):
    """A recipe: the ingredients and the number of products."""

    number: int
    ingredients: Mapping[str, int]


def _tools(prefix: str, material: str) -> dict[str, CraftingRecipe]:
    needs = {"pickaxe": (3, 2), "axe": (3, 2), "shovel": (1, 2), "hoe": (2, 2), "sword": (2, 1)}
    return {
        f"{prefix}_{tool}": CraftingRecipe(1, {material: materials, "stick": sticks})
        for tool, (materials, sticks) in needs.items()
    }


# Minecraft 1.16's, of what is rewarded and of what is made of it. None can be undone, but for iron_ingot (blocks).
CRAFTING_RECIPES: dict[str, CraftingRecipe] = {
    "planks": CraftingRecipe(4, {"log": 1}),
    "stick": CraftingRecipe(4, {"planks": 2}),
    "crafting_table": CraftingRecipe(1, {"planks": 4}),
    "chest": CraftingRecipe(1, {"planks": 8}),
    "furnace": CraftingRecipe(1, {"cobblestone": 8}),
    "torch": CraftingRecipe(4, {"coal": 1, "stick": 1}),
    "iron_ingot": CraftingRecipe(1, {"iron_ore": 1}),
    "bucket": CraftingRecipe(1, {"iron_ingot": 3}),
    **_tools("wooden", "planks"),
    **_tools("stone", "cobblestone"),
    **_tools("iron", "iron_ingot"),
    **_tools("diamond", "diamond"),
}
_REVERSIBLE = {"iron_ingot"}  # crafted again from its block: the game's count of it can be raised for ever
_ITEMS = CRAFTING_RECIPES.keys() | {item for recipe in CRAFTING_RECIPES.values() for item in recipe.ingredients}
_CRAFTED = {item: f"crafted.{item}" for item in CRAFTING_RECIPES if item not in _REVERSIBLE}


def counted(table: RewardTable) -> frozenset[str]:
    """The names in `info` that rewards by this table depend on, by way of crafting too."""
    if not table.keys() & _ITEMS:
        return frozenset(table)  # Doom has nothing to craft
    return frozenset(table.keys() | _ITEMS | set(_CRAFTED.values()))


class Tally:
    """What has been obtained in an episode, and paid for."""

    def __init__(self, table: RewardTable, info: Mapping[str, float]):
        """`info` is the episode's first."""
        self._table, self.obtained = table, dict.fromkeys(table, 0.0)
        self._recipes = CRAFTING_RECIPES if table.keys() & _ITEMS else {}  # Doom has nothing to craft
        self._held = {item: info.get(item, 0.0) for item in table.keys() | (_ITEMS if self._recipes else set())}
        self._first, self._highest = dict(self._held), dict(self._held)
        self._used = dict.fromkeys(self._held, 0.0)  # in crafting
        self._crafted = _crafted(info)  # when the episode began

    def pay(self, info: Mapping[str, float]) -> float:
        """The reward of the step that led to `info`."""
        before, self._held = self._held, {item: info.get(item, 0.0) for item in self._held}
        self._use_up(self._rise(info))
        reward = 0.0
        for item, (each, quantity, every_rise) in self._table.items():
            paid = self.obtained[item]
            if every_rise:
                self.obtained[item] += max(self._held[item] - before[item], 0.0)
            else:
                self.obtained[item] = self._highest[item] - self._first[item]
            limit = float("inf") if quantity is None else quantity
            reward += each * (min(self.obtained[item], limit) - min(paid, limit))
        return reward

    def _rise(self, info: Mapping[str, float]) -> dict[str, float]:
        """Takes note of what there is more of than ever before; returns how much more of each item."""
        crafted, before = _crafted(info), dict(self._highest)
        for item in self._highest:
            by_statistics = self._first[item] + crafted.get(item, 0.0) - self._crafted.get(item, 0.0)
            self._highest[item] = max(before[item], self._held[item] + self._used[item], by_statistics)
        return {item: highest - before[item] for item, highest in self._highest.items()}

    def _use_up(self, made: Mapping[str, float]) -> None:
        """Notes the ingredients of what has been made, as far as they are missing."""
        for product, recipe in self._recipes.items():
            for item, number in recipe.ingredients.items():
                missing = self._highest[item] - self._held[item] - self._used[item]
                self._used[item] += min(made[product] * number / recipe.number, missing)


def _crafted(info: Mapping[str, float]) -> dict[str, float]:
    """The game's own counts of what has been crafted."""
    return {item: info[name] for item, name in _CRAFTED.items() if name in info}
