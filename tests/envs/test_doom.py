"""The Doom environment: effects of keys and mouse, determinism, ends of episodes and of engine processes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from vpt_jax.actions.minerl import ENV_KEYS, MINERL
from vpt_jax.actions.spaces import DOOM, MAPPINGS
from vpt_jax.envs.doom.env import DoomEnv, screen_mode

IDLE = MINERL.to_env(np.zeros(20, np.uint8), np.zeros(2, np.float32))


def press(*keys, pitch=0.0, yaw=0.0):
    return IDLE | dict.fromkeys(keys, 1) | {"camera": np.array([pitch, yaw], np.float32)}


def play(env, actions, seed=0):
    """All frames and the last info of an episode."""
    observation, info = env.reset(seed=seed)
    frames = [observation["pov"]]
    for action in actions:
        observation, _, _, _, info = env.step(action)
        frames.append(observation["pov"])
    return np.stack(frames), info


@pytest.fixture
def env():
    env = DoomEnv("MAP01", 90, 160)
    yield env
    env.close()


def test_spaces_are_those_of_the_human_interface(env):
    assert set(env.action_space) == set(ENV_KEYS)
    assert env.observation_space["pov"].shape == (90, 160, 3)
    assert env.action_space.contains(IDLE)
    check_env(env, skip_render_check=True, skip_close_check=True)


def test_twenty_steps_are_a_second(env):
    play(env, [])
    start = env._engine.game.get_episode_time()
    for _ in range(20):
        env.step(IDLE)
    assert env._engine.game.get_episode_time() - start == 35


@pytest.mark.parametrize("yaw", [0.3, -4.5, 10, 90, -175])
def test_the_view_turns_by_the_camera_angle(env, yaw):
    _, before = play(env, [])
    for _ in range(4):  # steps of 2 and of 1 tics
        _, _, _, _, info = env.step(press(yaw=yaw))
        turned = (before["angle"] - info["angle"] - yaw + 180) % 360 - 180
        assert abs(turned) < 0.02  # the engine counts in 1/182 degrees, per tic
        before = info


def test_the_view_pitches_within_the_engines_limits(env):
    pitches = [play(env, [press(pitch=pitch)] * 2)[1]["pitch"] for pitch in (5, -7.5, 60, -60)]
    np.testing.assert_allclose(pitches, [10, -15, 56, -32], atol=0.03)


def test_dooms_own_space_plays_as_minerls():
    rng = np.random.default_rng(1)
    buttons = (rng.random((30, len(DOOM.keys))) < 0.3).astype(np.uint8)
    camera = rng.normal(0, 5, (30, 2)).astype(np.float32)
    mapped = MAPPINGS["doom-to-minerl"].apply(DOOM, MINERL, buttons, camera)
    frames = []
    for space, actions in ((DOOM, (buttons, camera)), (MINERL, mapped)):
        env = DoomEnv("MAP02", 90, 160, space=space.name)
        assert set(env.action_space) == {*space.env_keys, "camera"}
        frames.append(play(env, [space.to_env(*row) for row in zip(*actions, strict=True)])[0])
        env.close()
    np.testing.assert_array_equal(*frames)
    with pytest.raises(ValueError, match="minerl or doom, not 'quake'"):
        DoomEnv("MAP02", space="quake")


def test_equal_seeds_and_actions_give_equal_frames():
    rng = np.random.default_rng(0)
    actions = [MINERL.to_env(rng.integers(0, 2, 20).astype(np.uint8), rng.normal(0, 5, 2)) for _ in range(40)]
    first, second = DoomEnv("MAP02", 90, 160), DoomEnv("MAP02", 90, 160)
    frames, _ = play(first, actions, seed=0)
    np.testing.assert_array_equal(frames, play(second, actions, seed=0)[0])
    np.testing.assert_array_equal(frames, play(first, actions, seed=0)[0])  # its second episode
    assert (frames != play(second, actions, seed=1)[0]).any()
    first.close()
    second.close()


def test_a_reused_engine_restarts_the_level_and_is_deterministic():
    walk = [press("forward", yaw=2)] * 30
    runs = []
    for _ in range(2):
        env = DoomEnv("MAP01", 18, 32, fresh=False)
        first, moved = play(env, walk, seed=5)
        second, again = play(env, walk, seed=6)
        env.close()
        runs.append((first, second))
        assert [again[key] for key in "xyz"] == [moved[key] for key in "xyz"]  # the same path from the same start
        assert again["health"] == 100
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)
    fresh = DoomEnv("MAP01", 18, 32)
    np.testing.assert_array_equal(play(fresh, walk, seed=5)[0], runs[0][0])
    fresh.close()


def test_keys_have_the_effects_of_their_names(env):
    _, start = play(env, [press(yaw=-45)])  # towards open floor

    def after(*keys, steps=8):
        return play(env, [press(yaw=-45), *[press(*keys)] * steps])[1]

    def moved(info):
        angle = np.radians(start["angle"])
        x, y = info["x"] - start["x"], info["y"] - start["y"]
        return x * np.cos(angle) + y * np.sin(angle), x * np.sin(angle) - y * np.cos(angle)  # ahead, to the right

    ahead, sideways = moved(after("forward"))
    assert ahead > 40
    assert abs(sideways) < 1
    assert moved(after("forward", "sprint"))[0] > 1.5 * ahead
    assert moved(after("right"))[1] > 20
    assert moved(after("right", "left")) == pytest.approx((0, 0), abs=0.1)
    assert after("jump", steps=3)["z"] > start["z"]
    assert after("attack")["ammo"] < start["ammo"]
    assert (start["weapon"], after("hotbar.1", steps=30)["weapon"]) == (2, 1)


def test_keys_without_a_counterpart_do_nothing(env):
    frames, _ = play(env, [IDLE] * 10)
    pressed, _ = play(env, [press("drop", "inventory", "ESC", "swapHands", "pickItem")] * 10)
    np.testing.assert_array_equal(frames, pressed)


def test_death_ends_the_episode():
    env = DoomEnv("health_gathering", 90, 160)  # the floor burns
    env.reset(seed=0)
    over = False
    while not over:
        observation, _, over, _, info = env.step(IDLE)
    assert info["health"] <= 0
    assert observation["pov"].any()
    with pytest.raises(RuntimeError, match="reset"):
        env.step(IDLE)
    env.close()


def test_errors_for_invalid_arguments_name_the_remedy():
    with pytest.raises(ValueError, match=r"'MAP99'.*E1M1.*MAP32.*deathmatch"):
        DoomEnv("MAP99")
    with pytest.raises(ValueError, match="skill"):
        DoomEnv("MAP01", skill=0)
    with pytest.raises(RuntimeError, match="reset"):
        DoomEnv("MAP01").step(IDLE)
    assert screen_mode(128, 128) == "RES_256X144"
    assert screen_mode(360, 640) == "RES_640X360"
    with pytest.raises(ValueError, match="1920x1080"):
        screen_mode(2000, 3000)


PLAY_FOREVER = """
from vpt_jax.envs.doom.env import DoomEnv
env = DoomEnv("basic", 90, 160)
env.reset()
print(env._engine.game.get_instance_id(), flush=True)
while True:
    pass
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to find the engine")
def test_the_engine_ends_with_a_killed_player():
    def remains(instance):
        command_lines = b""
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # the process may have ended
                command_lines += process.read_bytes()
        memory = Path("/dev/shm").glob(f"*{instance.decode()}")  # noqa: S108
        return instance in command_lines or list(memory)

    player = subprocess.Popen([sys.executable, "-c", PLAY_FOREVER], stdout=subprocess.PIPE)
    instance = player.stdout.readline().strip()
    assert remains(instance)
    player.send_signal(signal.SIGKILL)
    player.communicate()
    deadline = time.monotonic() + 20
    while remains(instance):
        assert time.monotonic() < deadline, "the engine or its shared memory still exists"
        time.sleep(0.05)


def test_the_engine_ends_with_a_player_killed_while_it_starts(tmp_path):
    def engines():
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if b"engine.ini" in (line := process.read_bytes()) and str(tmp_path).encode() in line:
                    yield process

    environment = os.environ | {"TMPDIR": str(tmp_path)}
    player = subprocess.Popen([sys.executable, "-c", PLAY_FOREVER], stdout=subprocess.PIPE, env=environment)
    while not any(engines()):
        assert player.poll() is None
    player.send_signal(signal.SIGKILL)
    player.communicate()
    deadline = time.monotonic() + 20
    while any(engines()) or list(tmp_path.iterdir()):
        assert time.monotonic() < deadline, "the engine or its folder still exists"
        time.sleep(0.05)
