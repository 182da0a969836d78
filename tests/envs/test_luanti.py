"""The real Luanti: effects of keys and mouse, counters, resets and clean-up. In real time."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("Xlib", reason="Luanti needs python-xlib: pip install -e '.[luanti]'")

from vpt_jax.actions.minerl import ENV_KEYS, MINERL
from vpt_jax.envs import RecordError
from vpt_jax.envs.luanti import game
from vpt_jax.envs.luanti.env import LuantiEnv
from vpt_jax.envs.luanti.game import check_installed
from vpt_jax.envs.processes import watchdog
from vpt_jax.video import VideoWriter, decode

try:
    check_installed()
    MISSING = ""
except RecordError as error:
    MISSING = str(error)

pytestmark = [pytest.mark.luanti, pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason=MISSING)]
IDLE = MINERL.to_env(np.zeros(20, np.uint8), np.zeros(2, np.float32))
CRAFT, CRAFTED, FIRST_SLOT = (273, 91), (378, 115), (228, 205)  # pixels of slots in the inventory screen


def press(*keys, pitch=0.0, yaw=0.0):
    return IDLE | dict.fromkeys(keys, 1) | {"camera": np.array([pitch, yaw], np.float32)}


def play(env, *actions):
    """The info after these actions, once nothing has changed for 0.4 s, or after 3 s."""
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        assert not terminated
        assert not truncated
    infos = [env.step(IDLE)[4] | {"seconds": 0.0} for _ in range(8)]
    while len(infos) < 60 and any(info != infos[-1] for info in infos[-8:]):
        infos.append(env.step(IDLE)[4] | {"seconds": 0.0})
    return infos[-1]


def expect(env, *actions, **wanted):
    """The info after these actions; fails unless it equals `wanted` within 5 s (the game may be busy) and stays so."""
    for action in actions:
        env.step(action)
    info, left = env.step(IDLE)[4], 100
    while left and {name: info[name] for name in wanted} != pytest.approx(wanted, abs=0.5):
        info, left = env.step(IDLE)[4], left - 1
    info = play(env)
    assert {name: info[name] for name in wanted} == pytest.approx(wanted, abs=0.5)
    return info


def play_until(env, action, happened, steps):
    """Repeat the action until `happened(info)`, and fail if that takes more steps."""
    for _ in range(steps):
        _, _, _, _, info = env.step(action)
        if happened(info):
            return play(env)
    raise AssertionError(f"not in {steps} steps: {info}")


@pytest.fixture(scope="module")
def env():
    env = LuantiEnv(180, 320)
    yield env
    env.close()


@pytest.fixture
def start(env):
    """The info at the start of an episode on level ground."""
    _, info = env.reset(seed=0)
    return info


def moved(before, after):
    """Nodes moved ahead and to the right, as seen from `before`."""
    angle = np.radians(before["yaw"])
    x, z = after["x"] - before["x"], after["z"] - before["z"]
    return x * np.sin(angle) + z * np.cos(angle), x * np.cos(angle) - z * np.sin(angle)


def test_spaces_are_those_of_the_human_interface(env, start):
    assert set(env.action_space) == set(ENV_KEYS)
    assert env.action_space.contains(IDLE)
    observation, _, _, _, info = env.step(IDLE)
    assert env.observation_space.contains(observation)
    assert all(type(value) is float for value in info.values())
    assert {"crafting_table", "diamond_pickaxe", "gui_open", "deaths"} < info.keys() == start.keys()


@pytest.mark.parametrize("yaw", [30, 135])
def test_walking_goes_where_the_view_points(env, start, yaw):
    expect(env, *[press(yaw=yaw / 5)] * 5, yaw=yaw)

    def walk(*keys):
        """How far and in which direction, in degrees to the right of the view."""
        ahead, sideways = moved(play(env), play(env, *[press(*keys)] * 8))
        return np.hypot(ahead, sideways), np.degrees(np.arctan2(sideways, ahead))

    for key, direction in {"forward": 0, "back": 180, "right": 90, "left": -90}.items():
        nodes, angle = walk(key)
        assert 0.5 < nodes < 3
        assert (angle - direction + 180) % 360 - 180 == pytest.approx(0, abs=3)
    assert walk("back", "forward")[0] < 0.1


def test_sprinting_is_faster_than_walking_than_sneaking(env, start):
    ahead = []
    for keys in ({"forward", "sprint"}, {"forward"}, {"forward", "sneak"}):
        env.reset(seed=0)
        ahead.append(moved(start, play(env, *[press(*keys)] * 20))[0])
    assert ahead[0] > 1.15 * ahead[1] > 1.6 * ahead[2] > 0


@pytest.mark.parametrize(("pitch", "yaw"), [(0, 30), (0, -30), (30, 0), (-30, 0), (-12.34, 170), (60, -100)])
@pytest.mark.parametrize("steps", [10, 3])
def test_the_view_turns_by_the_camera_angle(env, start, pitch, yaw, steps):
    turn = [press(pitch=pitch / steps, yaw=yaw / steps)] * steps
    expect(env, *turn, pitch=start["pitch"] + pitch, yaw=(start["yaw"] + yaw) % 360)


def test_jumping_leaves_the_ground(env, start):
    heights = [env.step(press("jump"))[4]["y"] for _ in range(30)]
    assert 0.8 < max(heights) - start["y"] < 2
    expect(env, y=start["y"])


def test_placed_nodes_can_be_dug(env):
    _, start = env.reset(seed=0, options={"inventory": {"default:tree": 2}})
    assert start["log"] == 2
    expect(env, *[press(pitch=12)] * 5, pitch=60)
    expect(env, press("use"), log=1, dug=0)
    play_until(env, press("attack"), lambda info: info["dug"], 200)
    expect(env, log=2, dug=1)


def test_hotbar_keys_select_slots_and_drop_drops_items(env):
    _, start = env.reset(seed=0, options={"inventory": {"default:torch": 5, "default:coal_lump": 3}})
    assert (start["slot"], start["torch"], start["coal"]) == (1, 5, 3)
    for slot in range(1, 10):
        expect(env, press(f"hotbar.{slot}"), slot=slot)
    expect(env, press("hotbar.2"), slot=2)
    expect(env, press("drop"), coal=0, torch=5)
    _, again = env.reset(seed=0, options={"inventory": {"default:torch": 5}})
    assert (again["slot"], again["coal"]) == (1, 0)
    expect(env, *[press("sneak")] * 10, press("sneak", "drop"), *[press("sneak")] * 10, torch=4)


def point_at(env, pixel, pointer):
    """Move the pointer from one pixel to another in the inventory screen, and click."""
    x, y = np.subtract(pixel, pointer) * 0.15
    play(env, *[press(pitch=y / 4, yaw=x / 4)] * 4, press("attack"))
    return pixel


def test_planks_are_crafted_by_mouse(env):
    env.reset(seed=0, options={"inventory": {"default:tree": 1}})
    expect(env, press("inventory"), gui_open=1)
    pointer = (320, 180)
    for pixel in (FIRST_SLOT, CRAFT, CRAFTED):
        pointer = point_at(env, pixel, pointer)
    expect(env, log=0, planks=4)
    point_at(env, FIRST_SLOT, pointer)
    expect(env, press("inventory"), gui_open=0, planks=4, yaw=0)


def test_screens_close_and_no_menu_opens(env, start):
    expect(env, press("ESC"), gui_open=0)
    expect(env, press("inventory"), gui_open=1)
    seen = env.render()
    play(env, press(yaw=6))
    assert (env.render() != seen).any()  # the pointer is in the picture
    expect(env, press("ESC"), gui_open=0)
    assert moved(start, play(env, *[press("forward")] * 8))[0] > 0.5


def test_equal_seeds_give_equal_unmodified_terrain(env, start):
    play_until(env, press("attack", pitch=20), lambda info: info["y"] < start["y"] - 0.9, 200)  # into the ground
    _, again = env.reset(seed=0)
    assert play(env) | {"seconds": 0} == start | {"seconds": 0}
    for seed in (1, None):
        _, other = env.reset(seed=seed)
        assert np.hypot(other["x"] - again["x"], other["z"] - again["z"]) > 100


def test_players_respawn_and_deaths_are_counted(env):
    _, start = env.reset(seed=0, options={"inventory": {"bucket:bucket_lava": 1, "default:diamond": 1}})
    play(env, *[press("forward")] * 40, *[press(pitch=17)] * 5)
    play(env, press("use"))
    play_until(env, IDLE, lambda info: info["deaths"], 300)
    expect(env, deaths=1, diamond=0, gui_open=0, health=20, **{axis: start[axis] for axis in "xyz"})
    assert moved(start, play(env, *[press("forward")] * 8))[0] > 0.5
    assert env.reset(seed=0)[1]["deaths"] == 0


def test_two_games_do_not_interfere(env, start):
    with closing(LuantiEnv(90, 160)) as second:
        second.reset(seed=1)
        for _ in range(10):
            env.step(press(yaw=3))
            second.step(press(pitch=3))
        one, other = expect(env, yaw=30, pitch=0), expect(second, yaw=0, pitch=30)
        assert abs(one["x"] - other["x"]) > 100
        mark = second._game._scratch.name
        assert len(list(watchdog.marked(mark))) == 3
    assert not list(watchdog.marked(mark))
    assert play(env, press("jump"))["health"] == 20


def test_no_keys_end_the_game(env, start):
    rng = np.random.default_rng(0)
    for _ in range(300):
        action = {key: int(rng.random() < 0.2) for key in ENV_KEYS} | {"camera": rng.normal(0, 4, 2)}
        env.step(action)
    if play(env)["gui_open"]:
        expect(env, press("ESC"), gui_open=0)
    expect(env, press("inventory"), gui_open=1)


def looped_action(step):
    """The action at a step of a ten-second loop: walk and look around, then dig downwards."""
    step %= 200
    if step < 140:
        return press("forward", *(["jump"] if step % 20 < 8 else []), yaw=2 * np.sin(step / 10))
    return press("attack", pitch=9 * (step < 145)) if step < 190 else press(pitch=-4.5)


def test_a_minute_of_play_runs_in_real_time(tmp_path):
    with closing(LuantiEnv()) as env, VideoWriter(tmp_path / "film.mp4", 360, 640) as film:
        _, start = env.reset(seed=1)
        start_time, seconds = time.monotonic(), []
        for step in range(1200):
            observation, _, _, _, info = env.step(looped_action(step))
            film.write(observation["pov"])
            seconds.append(info["seconds"])
        total = time.monotonic() - start_time
    in_time = np.mean(np.abs(np.array(seconds) - 0.05) < 0.01)
    frames = np.stack([frame[::8, ::8].astype(int) for frame in decode(tmp_path / "film.mp4")])
    changes = np.abs(np.diff(frames, axis=0)).mean((1, 2, 3))
    print(
        f"{1200 / total:.2f} steps/s, {in_time:.1%} within 10 ms of 50 ms, {(changes > 0.5).mean():.1%} change; {info}"
    )
    assert len(frames) == 1200
    assert 60 <= total < 66
    assert (changes > 0.5).mean() > 0.5  # walking, about half of the time
    assert info["dug"] > 0
    assert np.hypot(*moved(start, info)) > 5


def test_errors_for_invalid_arguments_name_the_remedy():
    with pytest.raises(ValueError, match="640x360"):
        LuantiEnv(720, 1280)
    with pytest.raises(RuntimeError, match="reset"):
        LuantiEnv().step(IDLE)


def test_another_port_is_tried_when_one_is_taken(monkeypatch):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        ports = iter([other.getsockname()[1], game._free_port()])
        monkeypatch.setattr(game, "_free_port", lambda: next(ports))
        with closing(LuantiEnv(90, 160)) as env:
            env.reset(seed=0)
    assert not list(ports)


def test_a_game_that_ended_is_an_error_and_starts_again():
    with closing(LuantiEnv(90, 160)) as env:
        env.reset(seed=0)
        env._game._process.kill()
        env._game._process.wait()
        with pytest.raises(RuntimeError, match="ended"):
            env.step(IDLE)
        env.close()
        env.reset(seed=0)


PLAY_FOREVER = """
from vpt_jax.envs.luanti.env import LuantiEnv
env = LuantiEnv(90, 160)
env.reset()
print(env._game._scratch, flush=True)
while True:
    pass
"""


def test_no_process_or_file_outlives_a_killed_player():
    player = subprocess.Popen([sys.executable, "-c", PLAY_FOREVER], stdout=subprocess.PIPE)
    scratch = Path(player.stdout.readline().decode().strip())
    assert len(list(watchdog.marked(scratch.name))) == 3  # Xvfb, Luanti and the watchdog
    assert scratch.exists()
    player.send_signal(signal.SIGKILL)
    player.communicate()
    deadline = time.monotonic() + 20
    while scratch.exists() or list(watchdog.marked(scratch.name)):
        assert time.monotonic() < deadline, "a program or a file still exists"
        time.sleep(0.05)
