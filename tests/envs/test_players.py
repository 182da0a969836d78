"""Players: human action streams, the model of human input, and the scripted Doom player."""

import numpy as np
import pytest

from vpt_jax.actions.minerl import BUTTON_INDEX, MINERL, PITCH
from vpt_jax.envs.doom.bot.player import DoomPlayer, DoomRunner
from vpt_jax.envs.doom.env import DoomEnv
from vpt_jax.envs.players import HumanInputModel, HumanStreamPlayer, RandomPlayer, random_actions

SEED = 3


def human_actions(seed, steps=1200):
    player = HumanStreamPlayer(seed)
    buttons, camera = zip(*(MINERL.from_env(player.act({}, {})) for _ in range(steps)), strict=True)
    return np.array(buttons), np.array(camera)


def test_human_streams_are_complete_and_start_anywhere():
    runs = [human_actions(seed) for seed in range(12)]
    np.testing.assert_array_equal(runs[0][0], human_actions(0)[0])
    assert len({camera.tobytes() for _, camera in runs}) == 12
    # Whatever the start, 1,200 steps go once around one of the three streams.
    assert len({(buttons.sum(), np.abs(camera).sum().round(1)) for buttons, camera in runs}) == 3


def test_a_random_player_takes_the_random_actions_of_its_seed():
    player, rng = RandomPlayer(5), np.random.default_rng(5)
    for _ in range(50):
        buttons, camera = MINERL.from_env(player.act({}, {}))
        expected_buttons, expected_camera = random_actions(MINERL, rng, 1)
        np.testing.assert_array_equal(buttons, expected_buttons[0])
        np.testing.assert_allclose(camera, expected_camera[0], rtol=1e-6)


def test_the_input_model_turns_the_view_to_its_target_in_strokes():
    hand, remaining, turned = HumanInputModel(np.random.default_rng(0)), np.array([-12.0, 80.0]), []
    for _ in range(60):
        _, camera = MINERL.from_env(hand.move((), remaining, tolerance=2.0))
        remaining = remaining - camera
        turned.append(camera)
    assert np.abs(remaining).max() < 2
    assert np.abs(turned).max() < 30  # no faster than a hand
    speed = np.abs(turned)[:, 1]
    assert speed[0] < speed.max() / 2  # it accelerates
    assert not np.any(turned[-20:])  # and stops at its target


def test_the_input_model_holds_keys_for_a_minimum_time():
    rng = np.random.default_rng(1)
    hand = HumanInputModel(rng)
    held = np.array([hand.move({"jump"} if rng.random() < 0.5 else (), np.zeros(2), 1)["jump"] for _ in range(400)])
    presses = np.diff(np.flatnonzero(np.diff(held)))
    assert len(presses) > 20
    assert presses.min() >= 2


@pytest.fixture(scope="module")
def episode():
    """Positions, buttons, camera and last info of 30 s on MAP01."""
    env = DoomEnv("MAP01", 90, 160, objects=True)
    observation, info = env.reset(seed=SEED)
    player, positions, steps = DoomPlayer(env, SEED), [], []
    for _ in range(600):
        action = player.act(observation, info)
        steps.append(MINERL.from_env(action))
        observation, _, _, _, info = env.step(action)
        positions.append((info["x"], info["y"]))
    env.close()
    return np.array(positions), np.array([b for b, _ in steps]), np.array([c for _, c in steps]), info


def test_the_scripted_player_covers_ground(episode):
    positions, buttons, _, info = episode
    moved = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    pushes = buttons[1:, [BUTTON_INDEX[key] for key in ("forward", "back", "left", "right")]].any(1)
    assert moved.sum() > 2500
    assert len(np.unique(positions // 128, axis=0)) > 15
    assert (pushes & (moved < 2)).mean() < 0.1  # it rarely runs into obstacles
    assert info["items"] > 0
    assert positions[:, 0].max() > 720  # it opened the door at x = 672


def test_the_scripted_player_has_human_input_statistics(episode):
    _, buttons, camera, _ = episode
    assert 0.1 < MINERL.is_null(buttons, camera).mean() < 0.5
    assert 0.2 < (np.abs(camera) > 0.3).any(1).mean() < 0.8
    assert np.abs(camera).max() < 40


def test_the_scripted_player_fights():
    env = DoomEnv("defend_the_line", 90, 160, objects=True)
    observation, info = env.reset(seed=SEED)
    player = DoomPlayer(env, SEED)
    for _ in range(200):
        observation, _, _, _, info = env.step(player.act(observation, info))
    env.close()
    assert info["kills"] >= 2


def test_the_runner_uses_few_keys_and_keeps_within_the_pitch_limits():
    env = DoomEnv("MAP01", 90, 160, objects=True)
    observation, info = env.reset(seed=SEED)
    player, buttons, turned = DoomRunner(env, SEED), [], []
    for _ in range(600):
        action, pitch = player.act(observation, info), info["pitch"]
        observation, _, _, _, info = env.step(action)
        buttons.append(MINERL.from_env(action)[0])
        turned.append((action["camera"][PITCH], info["pitch"] - pitch))
    env.close()
    keys = ["forward", "left", "right", "sprint", "attack", "use"]
    held = np.array(buttons)[:, [BUTTON_INDEX[key] for key in keys]]
    assert held.sum() == np.sum(buttons)  # no other key
    moves, sprints = held[:, :3].any(1), held[:, 3] == 1
    assert moves.mean() > 0.2
    assert (moves == sprints).mean() > 0.8  # a key stays as it is for a moment
    requested, actual = np.array(turned).T
    assert (np.abs(requested) > 2).mean() > 0.1
    assert (np.abs(actual - requested) > 0.1).mean() < 0.005  # nearly all mouse movements are visible


def test_the_scripted_player_is_deterministic():
    def run(seed):
        env = DoomEnv("E1M5", 90, 160, objects=True)
        observation, info = env.reset(seed=0)
        player, actions = DoomPlayer(env, seed), []
        for _ in range(120):
            actions.append(player.act(observation, info))
            observation, _, _, _, info = env.step(actions[-1])
        env.close()
        return np.array([np.concatenate(MINERL.from_env(action)) for action in actions])

    np.testing.assert_array_equal(run(0), run(0))
    assert (run(0) != run(1)).any()
