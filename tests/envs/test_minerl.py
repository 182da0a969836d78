"""The MineRL adapter, tested with the specification of its interface and with a stub of MineRL (`stubs/`)."""

import ast
import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vpt_jax.actions.minerl import BUTTON_INDEX, ENV_KEYS
from vpt_jax.envs import minerl
from vpt_jax.envs.games import make_env_spec
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector import server
from vpt_jax.envs.vector.client import EnvLostError, Timeouts
from vpt_jax.envs.vector.pool import Pool

HERE = Path(__file__).parent
SPEC = json.loads((HERE / "minerl_v1_spec.json").read_text())
MINERL, GYM = (HERE / "stubs" / name for name in ("minerl", "gym"))


@pytest.fixture
def game(monkeypatch):
    """The adapter in this process, around the stub."""
    for folder in (GYM, MINERL):
        monkeypatch.syspath_prepend(folder)
    yield minerl.make(seconds=0.2)
    for name in [name for name in sys.modules if name.split(".")[0] in ("minerl", "gym")]:
        del sys.modules[name]


@pytest.fixture
def path(monkeypatch):
    """Adds folders of packages to the path of the game processes; with short pauses between retries."""
    monkeypatch.setattr("vpt_jax.envs.vector.game_process._RETRY_PAUSES", (0.0, 0.01, 0.02, 0.04))
    return lambda *folders: monkeypatch.setenv("PYTHONPATH", ":".join(map(str, folders)))


def press(*keys, camera=(0.0, 0.0)):
    return server.action_dict(minerl.KEYS, [int(key in keys) for key in minerl.KEYS], {}, np.array(camera, np.float32))


def has_numpy(python):
    return subprocess.run([python, "-c", "import numpy"], capture_output=True).returncode == 0


OLD = [python for minor in (8, 9, 10) if (python := shutil.which(f"python3.{minor}")) and has_numpy(python)]


def test_spaces_and_settings_are_those_of_the_spec(game):
    assert set(game.action_space.spaces) == set(SPEC["actions"]) == set(ENV_KEYS)
    for name, space in game.action_space.spaces.items():
        described = {**SPEC["actions"][name], **({"shape": (2,), "dtype": "float32"} if name == "camera" else {})}
        assert vars(space) == described, name
    pov = SPEC["observations"]["pov"]
    assert vars(game.observation_space["pov"]) == pov | {"shape": tuple(pov["shape"])}
    assert game._env.task.settings == SPEC["settings"]
    assert SPEC["steps_per_second"] == minerl.STEPS_PER_SECOND


def box(low, high, shape):
    return SimpleNamespace(low=low, high=high, shape=shape)


@pytest.mark.parametrize(
    ("spaces", "change", "message"),
    [
        (0, {"chat": None, "swapHands": ...}, "differ in chat, swapHands"),
        (1, {"inventory": ...}, "lack inventory"),
        (1, {"pov": np.zeros((64, 64, 3), np.uint8)}, r"shape \(64, 64, 3\), not uint8 of \(360, 640, 3\)"),
        (1, {"pov": np.zeros((360, 640, 3))}, "frames are float64"),
        (0, {"camera": box(-1, 1, (2,))}, "camera is not two angles of -180 to 180 degrees"),
        (0, {"camera": box(-180, 180, (3,))}, "camera is not two angles"),
    ],
)
def test_another_interface_is_refused(spaces, change, message):
    actions = dict.fromkeys(SPEC["actions"]) | {"camera": box(-180, 180, (2,))}
    interface = [actions, {"pov": np.zeros((360, 640, 3), np.uint8), "inventory": None}]
    minerl.check_spaces(*interface)
    interface[spaces] = {name: space for name, space in {**interface[spaces], **change}.items() if space is not ...}
    with pytest.raises(ValueError, match=message):
        minerl.check_spaces(*interface)


@pytest.mark.parametrize(("seed", "shown"), [(0, 0), (7, 7), (None, 255)])
def test_the_seed_is_that_of_the_next_world(game, seed, shown):
    game.reset(seed=3)
    observation, _ = game.reset(seed=seed)
    assert observation["pov"][0, 0].tolist() == [shown, 0, 0]


def test_all_keys_but_escape_reach_the_game(game):
    game.reset(seed=1)
    game.step(press("ESC", "forward", "hotbar.3", camera=(-1.5, 30)))
    sent = game._env.action
    assert {name for name, held in sent.items() if name != "camera" and held} == {"forward", "hotbar.3"}
    assert sent["camera"].tolist() == [-1.5, 30]
    assert all(type(held) is int for name, held in sent.items() if name != "camera")  # as MineRL writes them


def test_episodes_are_truncated_at_the_time_limit(game):
    game.reset(seed=1)
    endings = [game.step(press())[2:4] for _ in range(4)]
    assert endings == [(False, False)] * 3 + [(False, True)]
    game.reset(seed=2)
    assert game.step(press())[2:4] == (False, False)


def test_after_death_the_episode_continues_without_items(game):
    game.reset(seed=1)
    assert game.step(press("attack"))[4]["log"] == 1
    *_, terminated, truncated, info = game.step(press("use"))
    assert (terminated, truncated, info) == (False, False, {"health": 20, "food": 20})
    assert game.step(press("attack"))[4]["log"] == 1


def test_a_lost_connection_is_an_error(game):
    game.reset(seed=1)
    with pytest.raises(RuntimeError, match="lost its Minecraft: Connection timed out!"):
        game.step(press("sneak"))
    game.close()
    assert game._env.closed


def test_items_have_the_names_of_the_reward_table():
    wood = {"oak_log": 1, "stripped_birch_log": 2, "oak_planks": 4, "dark_oak_planks": 8}
    others = {name: 1 for name in REWARDS["diamond"] if name not in ("log", "planks")}
    inventory = {name: np.array(count) for name, count in {**wood, **others, "dirt": 0, "oak_boat": 5}.items()}
    stats = {"location_stats": {"xpos": np.array(1.5), "pitch": np.array(2)}}
    info = minerl.extract_info({"inventory": inventory, **stats})
    assert info == {"log": 3, "planks": 12, **others, "oak_boat": 5, "x": 1.5}
    assert all(type(number) is float for number in info.values())


def test_the_games_count_of_crafted_items_is_passed_on():
    """If MineRL observes it, rewards use this count, which cannot be inflated (fidelity D6)."""
    crafted = {"oak_planks": np.array(4), "birch_planks": np.array(8), "torch": np.array(0)}
    assert minerl.extract_info({"inventory": {}, "craft_item": crafted}) == {"crafted.planks": 12}


def play(game, seeds, *keys):
    """Hold keys until all seeds are played; returns the episodes, and the first pixel of every frame."""
    buttons = np.zeros((1, 20), np.uint8)
    buttons[0, [BUTTON_INDEX[key] for key in keys]] = 1
    with Pool(game, [iter(seeds)], (360, 640), REWARDS["diamond"], wait_for_resets=False) as pool:
        pixels = [pool.begin().frames[0, 0, 0].tolist()]
        while not pool.done:
            pixels.append(pool.step(buttons, np.zeros((1, 2), np.float32)).frames[0, 0, 0].tolist())
        return pool.episodes(), pixels


@pytest.mark.parametrize("python", [sys.executable, *OLD])
def test_the_pool_plays_the_game(path, python):
    path(MINERL, GYM)
    (first, second), pixels = play(make_env_spec("minerl", {"seconds": 0.2}, python), [0, 9], "attack")
    assert (first.seed, first.steps, first.ending, first.obtained["log"]) == (0, 4, "truncated", 4)
    assert first.reward == second.reward == 0.5
    assert first.info == {"health": 20, "food": 20, "log": 4}
    assert pixels[:6] == [[0, step, 0] for step in range(5)] + [[9, 0, 0]]


@pytest.mark.parametrize(
    ("key", "ending"),
    [("sprint", ("lost", 0)), ("sneak", ("lost", 0)), ("jump", ("truncated", 1))],  # hangs, Minecraft gone, MineRL done
)
def test_faults_cost_the_rest_of_the_episode(path, key, ending):
    path(MINERL, GYM)
    game = dataclasses.replace(make_env_spec("minerl", {"seconds": 0.2}), timeouts=Timeouts(step=2))
    episodes, _ = play(game, [1, 2], key)
    assert [(episode.ending, episode.steps) for episode in episodes] == [ending] * 2


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ([], "MineRL is not installed"),
        (["0.4.4"], r"MineRL 0\.4\.4 \(PyPI's\) is an older, different game"),
        ([MINERL], "MineRL 1.0.2 cannot be imported: No module named 'gym'"),
    ],
)
def test_missing_packages_are_named_with_the_install_command(path, tmp_path, installed, message):
    (tmp_path / "minerl-0.4.4.dist-info").mkdir()
    (tmp_path / "minerl-0.4.4.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: minerl\nVersion: 0.4.4")
    path(*(tmp_path if folder == "0.4.4" else folder for folder in installed))
    with pytest.raises(EnvLostError, match=rf"(?s){message}.*Java 8.*pip install git\+https.*config\.game\.python"):
        play(make_env_spec("minerl", {}), [1])


def test_the_modules_parse_under_python_3_8():
    for module in (server, minerl):
        ast.parse(Path(module.__file__).read_text(), feature_version=(3, 8))
