"""Rollouts of agents: recorded episodes, drift from a reference policy, metrics."""

import itertools
import json
from functools import partial

import jax
import numpy as np
import pytest

from configs.evaluate import get_config
from tests.envs.toy_games import SIZE
from vpt_jax.actions.minerl import MINERL
from vpt_jax.envs.rewards import Reward
from vpt_jax.envs.vector.client import EnvSpec
from vpt_jax.envs.vector.pool import Pool, TimeStep
from vpt_jax.evaluation.rollouts import (
    AgentActions,
    EpisodeResult,
    EvaluatedPolicy,
    IdleAgent,
    RandomAgent,
    best_median_worst,
    play_figures,
    recording_path,
    run_episodes,
    summarize,
)
from vpt_jax.models.joint_head import JointDistribution
from vpt_jax.models.policy import Policy
from vpt_jax.programs import evaluate
from vpt_jax.programs.evaluate import evaluate_agent
from vpt_jax.recording import read_frames, read_steps
from vpt_jax.training.checkpoints import jsonable

APPLES = {"apples": Reward(1)}


def make_pool(episodes, rows=2, **arguments):
    seeds = itertools.islice(itertools.count(3), episodes)
    return Pool(EnvSpec("tests.envs.toy_games:Counting", arguments), [seeds] * rows, SIZE, APPLES)


class AlternatingAgent(RandomAgent):
    """Attacks in every other step of an episode, and turns at a constant rate."""

    def act(self, time_step):
        attack = time_step.frames[:, 0, 0, 1] % 2 == 0
        buttons = np.zeros((len(attack), 20), np.uint8)
        buttons[:, 0] = attack
        camera = np.tile(np.float32([0, 1.5]), (len(attack), 1))
        return AgentActions(buttons, camera, time_step.frames[:, 0, 0, 1].astype(float))


def test_episodes_are_played_by_seed_and_recorded(tmp_path):
    with make_pool(5, steps=3) as pool:
        played = run_episodes(AlternatingAgent(MINERL, 0), pool, tmp_path, 5)
    assert [one[:4] for one in played] == [(seed, 3, 2.0, "truncated") for seed in range(3, 8)]
    assert {one.drift for one in played} == {1.0}  # the mean of 0, 1, 2
    steps = read_steps(recording_path(tmp_path, 4).with_suffix(".jsonl"))
    np.testing.assert_array_equal(steps.buttons[:, 0], [1, 0, 1])
    np.testing.assert_allclose(steps.camera, [[0, 1.5]] * 3)
    frames = list(read_frames(recording_path(tmp_path, 4).with_suffix(".mp4"), steps, *SIZE))
    assert len(frames) == 3


def test_idle_time_and_counts_of_the_game_without_recordings(tmp_path):
    class Resting(AlternatingAgent):
        """Does nothing in every other step."""

        def act(self, time_step):
            actions = super().act(time_step)
            return actions._replace(camera=np.zeros_like(actions.camera))

    with make_pool(2, steps=40) as pool:
        one, two = run_episodes(Resting(MINERL, 0), pool, None, 2, "resting", ["apples", "turned", "gold"])
    assert one.idle == two.idle == 0.5
    assert one.stuck == 0  # half of the actions are null
    assert one.counts == {"apples": 20, "turned": 0}
    assert not list(tmp_path.iterdir())


def test_idle_and_random_agents(tmp_path):
    with make_pool(2, steps=4) as pool:
        time_step = pool.begin()
        idle = IdleAgent(MINERL).act(time_step)
        first, again = (RandomAgent(MINERL, 1).act(time_step) for _ in range(2))
        many = [RandomAgent(MINERL, seed).act(time_step).buttons for seed in range(200)]
    assert not idle.buttons.any()
    assert not idle.camera.any()
    np.testing.assert_array_equal(first.buttons, again.buttons)
    np.testing.assert_allclose(np.mean(many, axis=(0, 1))[0], 0.5, atol=0.1)  # attack is in half of the classes


def random_like(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(0, leaf.shape[0] ** -0.5, leaf.shape).astype(np.float32), shapes)


def test_drift_is_the_kl_from_the_reference_to_the_policy():
    policy = Policy(widths=(4, 4), features=16, heads=2, layers=1, memory_length=4)
    frames, first = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8), np.ones(3, bool)
    start = frames[:, None], first[:, None], policy.initial_memory(3)
    shapes = jax.eval_shape(policy.init, jax.random.key(0), *start)["params"]
    # Logits of order 1: a KL of a few 1e-4, as between initial parameters, is the difference of two numbers near 10
    one, other = (random_like(shapes, seed) for seed in (0, 1))
    time_step = TimeStep(frames, None, first, first, first, None, None, None)
    same = EvaluatedPolicy((policy, one), (policy, one), 3, seed=0).act(time_step)
    different = EvaluatedPolicy((policy, one), (policy, other), 3, seed=0).act(time_step)
    again = EvaluatedPolicy((policy, one), (policy, other), 3, seed=0).act(time_step)
    np.testing.assert_allclose(same.drift, 0, atol=1e-6)
    logits = jax.jit(lambda params: policy.apply({"params": params}, *start).logits)
    p, q = logits(other), logits(one)
    assert JointDistribution().kl(p, q).min() > 0.1
    np.testing.assert_allclose(different.drift, JointDistribution().kl(p, q)[:, 0], rtol=1e-4)
    np.testing.assert_array_equal(different.camera, again.camera)


def played(seed, reward, ending="truncated", drift=0.5):
    return EpisodeResult(seed, 10, reward, ending, {"log": reward}, drift)


def test_metrics_of_an_agent():
    episodes = [played(0, 0.0), played(1, 3.0, "terminated"), played(2, 99.0, "lost"), played(3, 6.0)]
    figures = summarize(episodes)
    assert (figures["episodes"], figures["lost"]) == (3, 1)
    assert figures["return"] == figures["obtained/log"] == pytest.approx(3)
    assert figures["return_error"] == pytest.approx(3 / np.sqrt(3))
    assert figures["terminated"] == pytest.approx(1 / 3)
    assert figures["milestone/log"] == pytest.approx(2 / 3)
    assert figures["drift"] == 0.5
    chosen = best_median_worst(episodes)
    assert {place: result.seed for place, result in chosen.items()} == {"best": 3, "median": 1, "worst": 0}


def test_figures_have_intervals_of_their_kind():
    episodes = [played(0, 0.0), played(1, 3.0, "terminated"), played(2, 99.0, "lost"), played(3, 6.0)]
    episodes = [episode._replace(counts={"kills": episode.reward}) for episode in episodes]
    figures = play_figures(episodes)
    assert "idle" not in figures  # not known of these
    assert figures["return"] == figures["obtained/log"] == figures["counts/kills"]
    assert figures["return"].value == pytest.approx(3)
    assert 0 <= figures["return"].low < 3 < figures["return"].high <= 6
    assert figures["milestone/log"] == pytest.approx((2 / 3, 0.2077, 0.9385), abs=1e-4)  # Wilson's
    assert figures["terminated"] == pytest.approx((1 / 3, 0.0615, 0.7923), abs=1e-4)
    assert play_figures(episodes[2:3]) == {}


def test_an_agent_with_only_lost_episodes():
    figures = summarize([played(0, 1.0, "lost")])
    assert (figures["episodes"], figures["lost"]) == (0, 1)
    assert np.isnan([figures["return"], figures["return_error"], figures["milestone/log"]]).all()
    assert best_median_worst([played(0, 1.0, "lost")]) == {}


def test_stored_results_of_an_earlier_version_are_used(tmp_path):
    """That version stored `config.num_envs` under its former name, `games`."""
    config, result = get_config(), played(0, 1.0)
    config.update(out=str(tmp_path), episodes=1)
    settings = jsonable(config) | {"games": config.num_envs, "policies": [], "size": [8, 8]}
    del settings["num_envs"], settings["recorded_episodes"]
    (tmp_path / "agents").mkdir()
    added = ("idle", "stuck", "counts")  # by later versions
    episode = {name: value for name, value in result._asdict().items() if name not in added}
    stored = json.dumps({"settings": settings, "episodes": [episode]})
    (tmp_path / "agents" / "random.json").write_text(stored)
    assert evaluate_agent(config, "random", None, (8, 8), MINERL, []) == [result]


@pytest.mark.parametrize(("variant", "episodes"), [("minerl", 100), ("paper", 17), ("doom", 3000)])
def test_the_parts_of_an_evaluation_have_equal_play_time(variant, episodes):
    assert evaluate.part_episodes(get_config(variant)) == episodes


def test_a_killed_evaluation_continues_with_the_part_that_is_missing(tmp_path, monkeypatch):
    """Two environments: parts of two episodes and of three, since an agent has a row for each environment."""
    monkeypatch.setattr(evaluate, "PART_SECONDS", 1)
    config = get_config()
    config.update(episodes=5, num_envs=2, recorded_episodes=2, seed=3, out=str(tmp_path / "whole"))

    def pool(config, seeds, *_):
        assert seeds.start < stop_at, "killed"
        rows = evaluate.count_envs(config, len(seeds))
        return Pool(EnvSpec("tests.envs.toy_games:Counting", {"steps": 3}), [iter(seeds)] * rows, SIZE, APPLES)

    class TwoRows(RandomAgent):
        def act(self, time_step):
            assert len(time_step.first) == 2
            return super().act(time_step)

    def play():
        return evaluate_agent(config, "random", partial(TwoRows, MINERL), SIZE, MINERL, [])

    monkeypatch.setattr(evaluate, "make_pool", pool)
    stop_at = 9
    whole = play()
    assert [result.seed for result in whole] == [3, 4, 5, 6, 7]
    config.out, stop_at = str(tmp_path / "killed"), 5
    with pytest.raises(AssertionError, match="killed"):
        play()
    left = tmp_path / "killed" / "recordings" / "random" / "000000005.jsonl"
    left.touch()
    stop_at = 9
    assert repr(play()) == repr(whole)  # drift is NaN
    recorded = {path.stem for path in (tmp_path / "whole" / "recordings" / "random").glob("*.jsonl")}
    assert recorded == {"000000003", "000000004"} == {path.stem for path in left.parent.glob("*.jsonl")}
