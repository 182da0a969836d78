"""Doom tasks: time limit, counted places, the scripted player, and rewards."""

import gymnasium
import numpy as np
import pytest

from vpt_jax.envs.doom.level import DOORS, read_geometry
from vpt_jax.envs.doom.tasks import PLACE_SIZE, CountProgress, make, make_scripted
from vpt_jax.envs.rewards import REWARDS, RewardTracker

ARGUMENTS = {"seconds": 3.0, "level": "E1M5", "height": 18, "width": 32}
IDLE = {"camera": np.zeros(2, np.float32)}


def play(env, action, seed=0):
    """All infos of an episode, and (terminated, truncated)."""
    infos, over = [env.reset(seed=seed)[1]], (False, False)
    while not any(over):
        *_, terminated, truncated, info = env.step(action)
        infos.append(info)
        over = terminated, truncated
    env.close()
    return infos, over


def test_episodes_are_truncated_at_the_time_limit_and_places_counted_once():
    infos, over = play(make(**ARGUMENTS), IDLE | {"forward": 1, "sprint": 1})
    assert (len(infos) - 1, over) == (60, (False, True))
    seen, expected = set(), []
    for info in infos:
        seen.add((info["x"] // PLACE_SIZE, info["y"] // PLACE_SIZE))
        expected.append(len(seen))
    assert [info["places"] for info in infos] == expected
    assert expected[-1] > 2


def test_a_player_that_stands_still_visits_one_place():
    infos, _ = play(make(**ARGUMENTS), IDLE)
    assert {info["places"] for info in infos} == {1}
    assert [info["still"] for info in infos] == pytest.approx([step / 20 for step in range(61)])


def test_the_scripted_player_ignores_actions():
    infos, _ = play(make_scripted(**ARGUMENTS), IDLE)
    assert infos[-1]["places"] > 2
    again, _ = play(make_scripted(**ARGUMENTS), IDLE | {"back": 1})
    assert again == infos


@pytest.mark.parametrize("task", ["explore", "gather_health", "collect", "fight", "steering"])
def test_rewards_follow_dooms_counters(task):
    (first, last), table = play(make(**ARGUMENTS | {"seconds": 0.05}), IDLE)[0], REWARDS[task]
    assert set(table) <= set(last)
    tracker = RewardTracker(table, first)
    assert tracker.update(first | {item: first[item] + 3 for item in table}) == pytest.approx(
        sum(3 * reward.each for reward in table.values())
    )
    assert tracker.update(first) == 0  # a decrease, such as of health, is not charged


def test_a_door_counts_once_when_its_lines_are_crossed():
    geometry = read_geometry("E1M5")
    line = int(np.flatnonzero(np.isin(geometry.special, DOORS))[0])
    middle, along = geometry.ends[line].mean(0), np.diff(geometry.ends[line], axis=0)[0]
    across = 8 * np.array([along[1], -along[0]]) / np.linalg.norm(along)
    teleport = middle + 20 * across, middle - across
    positions = [*teleport, middle + across, middle - across, middle + across, middle + 2 * across]
    env = CountProgress(FakeDoom("E1M5", [{"x": x, "y": y} for x, y in positions]))
    counts = [env.reset()[1]["doors"]] + [env.step(IDLE)[-1]["doors"] for _ in positions[1:]]
    assert counts == [0, 0, 1, 1, 1, 1]


def test_pickups_count_items_of_any_amount_and_no_losses():
    infos = [{"ammo.2": 50}, {"ammo.2": 100}, {"ammo.2": 99}, {"ammo.2": 109, "ammo.3": 4}, {"ammo.3": 4, "health": 60}]
    env = CountProgress(FakeDoom("E1M5", infos))
    counted = [env.reset()[1]] + [env.step(IDLE)[-1] for _ in range(4)]
    assert [info["pickups.ammo"] for info in counted] == [0, 1, 1, 2, 2]
    assert [info["pickups.health"] for info in counted] == [0, 0, 0, 0, 1]
    assert {info["pickups.armor"] for info in counted} == {0}


class FakeDoom(gymnasium.Env):
    """Game with given infos; what they leave out is 0."""

    def __init__(self, level, infos):
        names = "x", "y", "health", "armor", *(f"ammo.{slot}" for slot in range(1, 8))
        self.level, self._infos = level, (dict.fromkeys(names, 0.0) | info for info in infos)

    def reset(self, *, seed=None, options=None):
        return {}, next(self._infos)

    def step(self, action):
        return {}, 0.0, False, False, next(self._infos)
