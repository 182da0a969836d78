"""launch/steer.py: its settings, the verdict, and episodes of a game for every caption."""

import re
from functools import partial

import jax
import numpy as np
import pytest

from configs import foundation
from configs.steer import get_config
from tests import programs
from tests.checkpoint_maker import write_checkpoint
from vpt_jax.evaluation.rollouts import EpisodeResult
from vpt_jax.models.policy import init_params
from vpt_jax.models.presets import make_policy
from vpt_jax.programs.steer import LostEpisodesError, check, describe, effects_of, paired_counts
from vpt_jax.report.experiments import read_experiment
from vpt_jax.system.errors import ConfigError

COUNTS = {"explore": "places", "fight": "hits", "rest": "doors"}


def settings(**changes):
    config = get_config()
    config.update(policy="p", out="o", captions=tuple(f"{name}={count}" for name, count in COUNTS.items()))
    config.update(changes)
    return config


def results(seed, more=0.0, count="places", lost=()):
    """Ten episodes in which one count is higher, and some are lost."""
    rng = np.random.default_rng(seed)
    obtained = [
        {name: float(rng.normal()) + (more if name == count else 0) for name in COUNTS.values()} for _ in "x" * 10
    ]
    endings = ["lost" if i in lost else "truncated" for i in range(10)]
    return [EpisodeResult(i, 5, 0.0, endings[i], obtained[i], 0.0) for i in range(10)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy": ""}, "config.policy=FOLDER"),
        ({"captions": ("explore=places",)}, "two or more different captions"),
        ({"captions": ("explore=places", "explore=hits")}, "two or more different captions"),
        ({"captions": ("explore=places", "=hits")}, "two or more different captions"),
        ({"captions": ("explore=places", "dig=dirt")}, "count 'dirt'; config.rewards='steering' counts .*places"),
        ({"episodes": 1}, "config.episodes must be 2 or more"),
        ({"rewards": "none"}, "config.rewards"),
    ],
)
def test_invalid_settings_are_refused(changes, message):
    assert check(settings()) == COUNTS
    with pytest.raises(ConfigError, match=message):
        check(settings(**changes))


def test_the_verdict_needs_two_captions_with_clear_effects():
    played = {"explore": results(1, 9, "places"), "fight": results(2, 9, "hits", lost=(3,)), "rest": results(3)}
    assert [len(values) for values in paired_counts(played, "hits").values()] == [9, 9, 9]
    effects, pairs = effects_of(played, COUNTS)
    experiment = describe(settings(), COUNTS, effects, pairs)
    assert experiment.notes[0].startswith("9 episodes of equal seeds for every caption")
    assert re.fullmatch(r"places: [89]\.\d\d explore, -?0\.\d\d fight, -?[01]\.\d\d rest", experiment.notes[2])
    assert experiment.verdicts[0].holds
    (series,) = experiment.series
    assert [point.x for point in series.points] == ["explore (places)", "fight (hits)", "rest (doors)"]
    assert series.points[0].low < series.points[0].y < series.points[0].high
    weaker = effects | {"fight": effects["rest"]}
    assert not describe(settings(), COUNTS, weaker, pairs).verdicts[0].holds


def test_two_seeds_need_an_episode_of_every_caption():
    played = {"explore": results(1), "fight": results(2, lost=range(5)), "rest": results(3, lost=range(5, 9))}
    with pytest.raises(LostEpisodesError, match="1 seeds have an episode of every caption, and two are needed"):
        effects_of(played, COUNTS)


@pytest.mark.slow
def test_a_policy_plays_the_same_seeds_for_every_caption(tmp_path):
    config = foundation.get_config("demo")
    config.model.update(preset="nano", text_features=256)
    config.data.text_embedder = "hashed"
    policy, rng = make_policy(config.model), np.random.default_rng(0)
    shapes = jax.eval_shape(partial(init_params, policy, (16, 16, 3)), jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)
    run = write_checkpoint(tmp_path / "run", params, config, 16, 32, 2, {"text": ["hashed-1", 256]})
    flags = [
        f"--config.policy={run}", f"--config.out={tmp_path / 'out'}", "--config.episodes=3", "--config.num_envs=2",
        "--config.game.arguments.seconds=1.0", "--config.captions=('explore=places','fight=hits')",
    ]  # fmt: skip
    output = programs.run("steer", *flags)
    assert "explore: places" in output
    experiment = read_experiment(tmp_path / "out" / "steer.json")
    assert len(experiment.series[0].points) == 2
    assert len(list((tmp_path / "out" / "recordings").glob("*/*.mp4"))) == 6
    stored = {path: path.read_bytes() for path in (tmp_path / "out" / "agents").iterdir()}
    programs.run("steer", *flags)
    assert stored == {path: path.read_bytes() for path in stored}
    refused = programs.run("steer", *flags, "--config.text_embedder=nowhere", status=1)
    assert "there is no text embedder nowhere" in refused
