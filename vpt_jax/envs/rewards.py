"""Reward functions: a fixed reward for every item obtained, up to a quantity (paper, table 7).

No item is rewarded twice: an item is obtained when its count held, plus its count known to be used up in crafting,
rises above its maximum in the episode so far. So an item that was put down, dropped, placed, stored, or lost by dying
gives no reward when it is taken up again, until there are more than ever before. Items held when an episode begins do
not count. The paper says "per item, up to quantity", and does not say how OpenAI counted.

These events are tracked:

- **counts** of items held, in `info` under the item's name: in all games;
- **crafting and smelting** (`CRAFTING_RECIPES`): a product that rises above its maximum has used up its ingredients,
  as far as these are missing;
- **crafting statistics of the game** (`crafted.ITEM` in `info`; MineRL's `craft_item`): all of them have been obtained,
  so a torch that is crafted after another was placed is rewarded as well.

Not tracked are fuel, food, placed blocks and broken tools: replacements are rewarded once there are more than ever
before. Each game defines the names in `info`. Doom's tasks count things that cannot be put down; some counts decrease
for other reasons: of health, which the player loses, every increase is rewarded (`Reward.every_increase`).
"""

from collections.abc import Mapping
from typing import NamedTuple


class Reward(NamedTuple):
    """Reward of one item: `each` for every one obtained, for at most `quantity` (None: unlimited)."""

    each: float
    quantity: int | None = None
    every_increase: bool = False  # for counts that cannot be put down and taken up again: every increase is obtained


RewardTable = Mapping[str, Reward]


def _tier(total: float, **quantities: int) -> dict[str, Reward]:
    """Rewards of one tier: each item gives `total` for its full quantity, so one of it gives `total / quantity`."""
    return {item: Reward(total / quantity, quantity) for item, quantity in quantities.items()}


_QUANTITIES = dict(
    log=8, planks=20, crafting_table=1, wooden_pickaxe=1, cobblestone=11, stone_pickaxe=1, furnace=1, coal=5, torch=16,
    iron_ore=3, iron_ingot=3, iron_pickaxe=1,
)  # fmt: skip

_COUNTED = (
    "dirt", "gravel", "sand", "wheat_seeds", "log", "planks", "stick", "crafting_table", "cobblestone",
    "wooden_pickaxe", "wooden_axe", "wooden_shovel", "wooden_hoe", "wooden_sword",
    "stone_pickaxe", "stone_axe", "stone_shovel", "stone_hoe", "stone_sword",
)  # fmt: skip

REWARDS: dict[str, RewardTable] = {
    # The items for a diamond pickaxe (paper, table 7): wood and stone 1, coal 2, iron 4, diamond 8. The quantity of
    # diamonds is three for their tier's total; neither they nor the pickaxe have a limit.
    "diamond": {
        **_tier(1, log=8, planks=20, stick=16, crafting_table=1, wooden_pickaxe=1),
        **_tier(1, cobblestone=11, stone_pickaxe=1, furnace=1),
        **_tier(2, coal=5, torch=16),
        **_tier(4, iron_ore=3, iron_ingot=3, iron_pickaxe=1),
        "diamond": Reward(8 / 3),
        "diamond_pickaxe": Reward(8),
    },
    # The same items, each with a total of 1 (paper, appendix G.2).
    "diamond_even": {
        **_tier(1, **_QUANTITIES, stick=12),
        "diamond": Reward(1 / 3),
        "diamond_pickaxe": Reward(1),
    },
    # Items that the paper counts in episodes of cloned policies (the kinds are recalled, not checked): the return is
    # their number. Dirt and the like that are placed and taken up again count once.
    "items": dict.fromkeys(_COUNTED, Reward(1)),
    "nothing": {},
    # Doom's tasks (doom/tasks.py defines the counts). A medikit gives 25 points of health.
    "explore": {"places": Reward(1)},
    "gather_health": {"health": Reward(1 / 25, every_increase=True)},
    "collect": {"items": Reward(1)},
    "fight": {"kills": Reward(1), "hits": Reward(1 / 10)},
    # What captions ask for (configs/steer.py): only the counts matter.
    "steering": {name: Reward(1) for name in ("places", "doors", "items", "kills", "hits", "still")}
    | {f"pickups.{kind}": Reward(1) for kind in ("ammo", "health", "armor")},
}


class CraftingRecipe(NamedTuple):
    """Crafting recipe: the number of products, and the number of each ingredient."""

    number: int
    ingredients: Mapping[str, int]


def _tools(prefix: str, material: str) -> dict[str, CraftingRecipe]:
    needs = {"pickaxe": (3, 2), "axe": (3, 2), "shovel": (1, 2), "hoe": (2, 2), "sword": (2, 1)}
    return {
        f"{prefix}_{tool}": CraftingRecipe(1, {material: materials, "stick": sticks})
        for tool, (materials, sticks) in needs.items()
    }


# Recipes of Minecraft 1.16 for rewarded items and their products. Only iron_ingot can be undone (from blocks).
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
_REVERSIBLE = {"iron_ingot"}  # crafted again from its block: the game's statistic can be raised without limit
_ITEMS = CRAFTING_RECIPES.keys() | {item for recipe in CRAFTING_RECIPES.values() for item in recipe.ingredients}
_CRAFTED = {item: f"crafted.{item}" for item in CRAFTING_RECIPES if item not in _REVERSIBLE}


def tracked_names(table: RewardTable) -> frozenset[str]:
    """Returns the names in `info` that the rewards of a table depend on, directly or through crafting."""
    if not table.keys() & _ITEMS:
        return frozenset(table)  # Doom has nothing to craft
    return frozenset(table.keys() | _ITEMS | set(_CRAFTED.values()))


class RewardTracker:
    """Tracks the items obtained in an episode, and returns the reward of each step."""

    def __init__(self, table: RewardTable, info: Mapping[str, float]):
        """`info` is that of the reset."""
        self._table, self.obtained = table, dict.fromkeys(table, 0.0)
        self._recipes = CRAFTING_RECIPES if table.keys() & _ITEMS else {}  # Doom has nothing to craft
        self._held = {item: info.get(item, 0.0) for item in table.keys() | (_ITEMS if self._recipes else set())}
        self._first, self._highest = dict(self._held), dict(self._held)
        self._used = dict.fromkeys(self._held, 0.0)  # up in crafting
        self._crafted = _crafted(info)  # when the episode began

    def update(self, info: Mapping[str, float]) -> float:
        """Returns the reward of the step that led to `info`."""
        before, self._held = self._held, {item: info.get(item, 0.0) for item in self._held}
        increases = self._update_highest(info)
        self._update_used(increases)
        reward = 0.0
        for item, (each, quantity, every_increase) in self._table.items():
            previous = self.obtained[item]
            if every_increase:
                self.obtained[item] += max(self._held[item] - before[item], 0.0)
            else:
                self.obtained[item] = self._highest[item] - self._first[item]
            limit = float("inf") if quantity is None else quantity
            reward += each * (min(self.obtained[item], limit) - min(previous, limit))
        return reward

    def _update_highest(self, info: Mapping[str, float]) -> dict[str, float]:
        """Update the maximum of every item; returns its increases."""
        crafted, before = _crafted(info), dict(self._highest)
        for item in self._highest:
            by_statistics = self._first[item] + crafted.get(item, 0.0) - self._crafted.get(item, 0.0)
            self._highest[item] = max(before[item], self._held[item] + self._used[item], by_statistics)
        return {item: highest - before[item] for item, highest in self._highest.items()}

    def _update_used(self, increases: Mapping[str, float]) -> None:
        """Add the ingredients of the items made to those used up, as far as they are missing."""
        for product, recipe in self._recipes.items():
            for item, number in recipe.ingredients.items():
                missing = self._highest[item] - self._held[item] - self._used[item]
                self._used[item] += min(increases[product] * number / recipe.number, missing)


def _crafted(info: Mapping[str, float]) -> dict[str, float]:
    """Returns the game's crafting statistics by item."""
    return {item: info[name] for item, name in _CRAFTED.items() if name in info}
