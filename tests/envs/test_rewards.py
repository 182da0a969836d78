"""Rewards of items: totals, quantities, and none for items that are only moved."""

import pytest

from vpt_jax.envs.rewards import REWARDS, Reward, RewardTracker

TIERS = {
    "through the furnace": ("log", "planks", "stick", "crafting_table", "wooden_pickaxe", "cobblestone",
                            "stone_pickaxe", "furnace"),
    "up to the iron pickaxe": ("coal", "torch", "iron_ore", "iron_ingot", "iron_pickaxe"),
}  # fmt: skip


def total(table, items, counts=()):
    """Total reward for the full quantity of items, obtained one after the other."""
    tracker = RewardTracker(table, {})
    info = {}
    paid = 0.0
    for item in items:
        for _ in range(table[item].quantity or dict(counts)[item]):
            info = info | {item: info.get(item, 0) + 1}
            paid += tracker.update(info)
    return paid


def test_total_rewards_up_to_the_diamond_pickaxe():
    table = REWARDS["diamond"]
    assert len(table) == 15
    furnace, iron = TIERS.values()
    assert total(table, furnace) == pytest.approx(8)
    assert total(table, furnace + iron) == pytest.approx(24)
    assert total(table, (*furnace, *iron, "diamond"), {"diamond": 3}.items()) == pytest.approx(32)
    whole = (*furnace, *iron, "diamond", "diamond_pickaxe")
    assert total(table, whole, {"diamond": 3, "diamond_pickaxe": 1}.items()) == pytest.approx(40)


@pytest.mark.parametrize(
    ("item", "each", "quantity"),
    [
        ("log", 1 / 8, 8), ("planks", 1 / 20, 20), ("stick", 1 / 16, 16), ("crafting_table", 1, 1),
        ("wooden_pickaxe", 1, 1), ("cobblestone", 1 / 11, 11), ("stone_pickaxe", 1, 1), ("furnace", 1, 1),
        ("coal", 2 / 5, 5), ("torch", 1 / 8, 16), ("iron_ore", 4 / 3, 3), ("iron_ingot", 4 / 3, 3),
        ("iron_pickaxe", 4, 1), ("diamond", 8 / 3, None), ("diamond_pickaxe", 8, None),
    ],
)  # fmt: skip
def test_rewards_equal_table_7_of_the_paper(item, each, quantity):
    assert REWARDS["diamond"][item] == pytest.approx(Reward(each, quantity))


def test_the_even_variant_pays_one_over_the_quantity():
    table = REWARDS["diamond_even"]
    assert set(table) == set(REWARDS["diamond"])
    quantities = {item: reward.quantity for item, reward in table.items() if reward.quantity}
    assert quantities | {"stick": 16} == {i: r.quantity for i, r in REWARDS["diamond"].items() if r.quantity}
    assert quantities["stick"] == 12
    assert all(table[item].each == pytest.approx(1 / quantity) for item, quantity in quantities.items())
    assert (table["diamond"].each, table["diamond_pickaxe"].each) == (pytest.approx(1 / 3), 1)


def test_initial_consumed_and_unlisted_items_pay_nothing():
    tracker = RewardTracker({"log": Reward(1, 3)}, {"log": 2})
    counts = [2, 3, 0, 1, 1, 4, 9]
    assert [tracker.update({"log": n, "dirt": 5 * n}) for n in counts] == [0, 1, 0, 0, 0, 1, 1]
    assert tracker.obtained == {"log": 7}
    assert tracker.update({}) == 0  # a game may omit items with a count of 0


def paid(*infos, table=REWARDS["diamond"]):
    """Total reward, and the tracker; the episode begins without items."""
    tracker = RewardTracker(table, {})
    return sum(tracker.update(info) for info in infos), tracker


def test_items_put_down_and_picked_up_again_pay_once():
    """Three diamonds picked up ten times pay 8, a log seven times 1/8 (fidelity D6)."""
    reward, tracker = paid(*[{"diamond": 3}, {}] * 10)
    assert reward == pytest.approx(8)
    assert tracker.obtained["diamond"] == 3  # what evaluation reports
    assert paid(*[{"log": 1}, {"dirt": 1}] * 7)[0] == pytest.approx(1 / 8)
    one_by_one = [{"diamond": n} for n in (1, 2, 3, 2, 1, 0, 1, 2, 3, 0, 3)]
    assert paid(*one_by_one)[0] == pytest.approx(8)


@pytest.mark.parametrize("item", sorted(REWARDS["diamond"]))
def test_no_item_pays_more_by_being_moved(item):
    """In a hand, a chest, the crafting grid, on the ground after a death: the count decreases and increases again."""
    once, _ = paid({item: 2})
    assert paid(*[{item: 2}, {item: 1}, {}, {item: 2}] * 5)[0] == pytest.approx(once)


def test_items_consumed_by_crafting_and_collected_again_pay():
    """The ingredients leave for the grid some steps before the product is in the inventory (fidelity D6)."""
    at_once = [{"log": 1}, {"planks": 4}, {"planks": 4, "log": 1}]
    by_the_grid = [{"log": 1}, {}, {"planks": 4}, {"planks": 4, "log": 1}]
    for infos in (at_once, by_the_grid):
        reward, tracker = paid(*infos)
        assert reward == pytest.approx(2 / 8 + 4 / 20)
        assert (tracker.obtained["log"], tracker.obtained["planks"]) == (2, 4)


def test_crafting_consumes_no_more_than_is_missing():
    grid = [{"log": 10}, {}, {"planks": 4}, {"planks": 4, "log": 9}]  # nine logs come back from the grid
    assert paid(*grid)[1].obtained["log"] == 10
    assert paid(*grid, {"planks": 4, "log": 10})[1].obtained["log"] == 11
    assert paid({"planks": 4}, {"planks": 4, "log": 1})[1].obtained["log"] == 1  # planks that were found
    pickaxe = {"diamond_pickaxe": 1}
    crafted = [{"diamond": 6, "stick": 2}, {"diamond": 3}, {"diamond": 3} | pickaxe]
    farmed = [pickaxe, {"diamond": 3} | pickaxe, {"diamond": 3}, {"diamond": 3} | pickaxe] * 10
    reward, tracker = paid(*crafted, *farmed)
    assert (tracker.obtained["diamond"], tracker.obtained["diamond_pickaxe"]) == (6, 1)
    assert reward == pytest.approx(6 * 8 / 3 + 8 + 2 / 16)
    assert paid(*crafted, *farmed, {"diamond": 4})[1].obtained["diamond"] == 7


def test_the_full_path_to_a_diamond_pickaxe_pays_40():
    """Every item is collected or crafted in its rewarded quantity, and used on the way."""
    held, infos = {}, []

    def change(**numbers):
        for item, number in numbers.items():
            held[item] = held.get(item, 0) + number
            assert held[item] >= 0, item
        infos.append(dict(held))

    for _ in range(8):
        change(log=1)
    for _ in range(5):
        change(log=-1)
        change(planks=4)
    change(planks=-4)
    change(crafting_table=1)
    for _ in range(4):
        change(planks=-2)
        change(stick=4)
    change(planks=-3, stick=-2)
    change(wooden_pickaxe=1)
    for need, product in (({"cobblestone": 3, "stick": 2}, "stone_pickaxe"), ({"cobblestone": 8}, "furnace")):
        change(cobblestone=need["cobblestone"])
        change(**{item: -number for item, number in need.items()})
        change(**{product: 1})
    change(coal=5)
    for _ in range(4):
        change(coal=-1, stick=-1)
        change(torch=4)
    for _ in range(3):
        change(iron_ore=1)
        change(iron_ore=-1)
        change(iron_ingot=1)
    change(iron_ingot=-3, stick=-2)
    change(iron_pickaxe=1)
    change(diamond=3)
    change(diamond=-3, stick=-2)
    change(diamond_pickaxe=1)
    assert paid(*infos)[0] == pytest.approx(40)


def test_items_that_the_game_counts_as_crafted_pay_after_they_are_placed():
    """MineRL's statistics (fidelity D6): torches are placed, and the same number is crafted again."""
    first = [{"coal": 1, "stick": 1}, {"torch": 4, "crafted.torch": 4}, {"crafted.torch": 4}]
    again = [{"coal": 1, "stick": 1, "crafted.torch": 4}, {"torch": 4, "crafted.torch": 8}]
    tracker = paid(*first, *again)[1]
    assert {item: tracker.obtained[item] for item in ("torch", "coal", "stick")} == {"torch": 8, "coal": 2, "stick": 2}
    blocks = [{"iron_ingot": 9, "crafted.iron_ingot": 9 * n} for n in range(1, 5)]  # to a block of iron and back
    assert paid(*blocks)[1].obtained["iron_ingot"] == 9
    later = RewardTracker(REWARDS["diamond"], {"crafted.torch": 4})  # crafted before the episode
    assert later.update({"crafted.torch": 4}) == 0


def test_every_increase_of_health_pays():
    """It cannot be put down: decreases are damage by monsters."""
    reward, tracker = paid({"health": 50}, {"health": 25}, {"health": 50}, table=REWARDS["gather_health"])
    assert reward == pytest.approx(3)
    assert tracker.obtained == {"health": 75}
