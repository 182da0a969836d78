import pytest

from vpt_jax.envs.rewards import REWARDS, Reward, Tally

TIERS = {
    "through the furnace": ("log", "planks", "stick", "crafting_table", "wooden_pickaxe", "cobblestone",
                            "stone_pickaxe", "furnace"),
    "up to the iron pickaxe": ("coal", "torch", "iron_ore", "iron_ingot", "iron_pickaxe"),
}  # fmt: skip


def total(table, items, counts=()):
    """What is paid in all for the full quantity of items, obtained one after the other."""
    tally = Tally(table, {})
    info = {}
    paid = 0.0
    for item in items:
        for _ in range(table[item].quantity or dict(counts)[item]):
            info = info | {item: info.get(item, 0) + 1}
            paid += tally.pay(info)
    return paid


def test_the_totals_of_the_way_to_a_diamond_pickaxe():
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
def test_the_rows_of_table_7(item, each, quantity):
    assert REWARDS["diamond"][item] == pytest.approx(Reward(each, quantity))


def test_the_even_variant_pays_one_over_the_quantity():
    table = REWARDS["diamond_even"]
    assert set(table) == set(REWARDS["diamond"])
    quantities = {item: reward.quantity for item, reward in table.items() if reward.quantity}
    assert quantities | {"stick": 16} == {i: r.quantity for i, r in REWARDS["diamond"].items() if r.quantity}
    assert quantities["stick"] == 12
    assert all(table[item].each == pytest.approx(1 / quantity) for item, quantity in quantities.items())
    assert (table["diamond"].each, table["diamond_pickaxe"].each) == (pytest.approx(1 / 3), 1)


def test_what_is_there_at_the_beginning_used_up_or_not_in_the_table_pays_nothing():
    tally = Tally({"log": Reward(1, 3)}, {"log": 2})
    counts = [2, 3, 0, 1, 1, 4, 9]
    assert [tally.pay({"log": n, "dirt": 5 * n}) for n in counts] == [0, 1, 0, 1, 0, 1, 0]
    assert tally.obtained == {"log": 10}
    assert tally.pay({}) == 0  # a game may leave out what there is none of
