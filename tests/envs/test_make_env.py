"""`vpt_jax.make_env`: games by name, in this process or in one of their own, played by an agent."""

import sys

import numpy as np
import pytest

import vpt_jax
from tests.openai.test_convert import policy_files
from vpt_jax.actions.space import ActionSpaceError
from vpt_jax.actions.spaces import DOOM
from vpt_jax.envs.games import GAMES, make_env_spec
from vpt_jax.envs.vector.client import EnvLostError
from vpt_jax.system.errors import UserError

ARGUMENTS = {"seconds": 0.5, "level": "E1M5", "height": 36, "width": 64}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    policy_files(folder, "nano", (16, 16, 3), scale=0.3)
    return vpt_jax.from_openai(folder / "a.model", folder / "a.weights")


def play(env, agent):
    """All frames and infos of an episode."""
    agent.reset()
    observation, info = env.reset(seed=3)
    steps, over = [(observation["pov"], info)], False
    while not over:
        observation, reward, terminated, truncated, info = env.step(agent.act(observation))
        assert reward == 0.0
        steps.append((observation["pov"], info))
        over = terminated or truncated
    env.close()
    return steps


def test_an_agent_plays_doom_in_this_process_and_in_another_alike(policy):
    agent = vpt_jax.PolicyAgent(policy)
    here = play(vpt_jax.make_env("doom", **ARGUMENTS), agent)
    there = play(vpt_jax.make_env("doom", python=sys.executable, **ARGUMENTS), agent)
    assert len(here) == 11  # half a second of 20 steps each, and the first frame
    for (frame, info), (other_frame, other_info) in zip(here, there, strict=True):
        np.testing.assert_array_equal(frame, other_frame)
        assert info == other_info
    assert frame.shape == (36, 64, 3)
    assert any((frame != here[0][0]).any() for frame, _ in here)


def test_a_game_has_defaults():
    env = vpt_jax.make_env("doom")
    assert env.observation_space["pov"].shape == (360, 640, 3)
    env.close()


def test_missing_packages_are_named_with_the_install_command(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("vpt_jax.envs.doom")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vizdoom", None)
    with pytest.raises(vpt_jax.UserError, match=r"vizdoom.*Install the game doom: pip install gymnasium scipy vizdoom"):
        vpt_jax.make_env("doom", **ARGUMENTS)


def test_minerl_is_not_that_of_pypi():
    steps = r"Java 8.*openjdk-8-jdk.*venv.*pip install git\+https://github.com/minerllabs/minerl.*`python` of make_env"
    with pytest.raises(vpt_jax.UserError, match=f"MineRL is not installed.*{steps}"):
        vpt_jax.make_env("minerl")
    with pytest.raises(vpt_jax.UserError, match=rf"(?s)the game failed.*MineRL is not installed.*{steps}"):
        vpt_jax.make_env("minerl", python=sys.executable)


def test_mistakes_are_named():
    with pytest.raises(vpt_jax.UserError, match="there is no game 'dom'; choose one of doom, luanti, video, minerl"):
        vpt_jax.make_env("dom")
    with pytest.raises(TypeError, match="secs"):
        vpt_jax.make_env("doom", secs=3)
    with pytest.raises(vpt_jax.UserError, match="there is no program nowhere/python"):
        vpt_jax.make_env("doom", python="nowhere/python")


def test_a_lost_game_is_named_and_stays_closed(monkeypatch):
    toy = GAMES["doom"]._replace(make="tests.envs.toy_games:Faulty")
    monkeypatch.setitem(GAMES, "doom", toy)
    env = vpt_jax.make_env("doom", python=sys.executable, faults=["die"], chance=1.0)
    with pytest.raises(EnvLostError, match="the game's process ended"):
        env.reset()
    with pytest.raises(EnvLostError, match="has been closed, or was lost"):
        env.step({})
    env.close()


def test_games_share_a_process_where_their_steps_are_short():
    spec = make_env_spec("doom", {})
    assert (spec.games_per_process, spec.one_core) == (16, True)
    assert make_env_spec("doom", {}, games_per_process=3).games_per_process == 3
    assert (make_env_spec("minerl", {}).games_per_process, make_env_spec("minerl", {}).one_core) == (1, False)
    with pytest.raises(UserError, match=r"config\.game\.games_per_process is 2, and must be 0 or 1 for minerl"):
        make_env_spec("minerl", {}, games_per_process=2)


def test_the_space_of_a_game_and_of_the_actions_must_agree():
    spec = make_env_spec("doom", {"level": "E1M5"}, space=DOOM)
    assert (spec.space, spec.arguments["space"]) == (DOOM, "doom")
    assert "space" not in make_env_spec("doom", {"level": "E1M5"}).arguments
    with pytest.raises(ActionSpaceError, match="`space` is 'doom', and the actions are of 'minerl'"):
        make_env_spec("doom", {"space": "doom"})
    with pytest.raises(ActionSpaceError, match="the game luanti has the action space 'minerl', and the policy has"):
        make_env_spec("luanti", {}, space=DOOM)
    env = vpt_jax.make_env("doom", python=sys.executable, space="doom", **ARGUMENTS)
    before = env.reset(seed=3)[1]
    after = env.step({"forward": 1, "run": 1, "camera": [0.0, 9.0]})[4]
    env.close()
    assert after["angle"] != before["angle"]
