"""Checkpoints that play the embedded game while a policy is trained: as a user starts it, killed, and resumed."""

import json

import pytest

import vpt_jax
from configs.evaluate import get_config
from tests.training.conftest import kill, wait_until
from vpt_jax.evaluation.checkpoint_play import BEST_BY_PLAY, best_by_play, checkpoints_of, read_play
from vpt_jax.programs.evaluate import evaluate
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.workers import locked

GAME = {"game.arguments.seconds": 2.0, "game.arguments.height": 36, "game.arguments.width": 64, "num_envs": 2}
SETTINGS = tuple(f"{name}={value}" for name, value in {**GAME, "choosing.episodes": 2, "reported.episodes": 2}.items())
FLAGS = ("--config.play.game=doom", f"--config.play.settings={SETTINGS}", "--config.report")


@pytest.fixture(scope="module")
def played(launcher, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("played")
    return workdir, launcher.run(workdir, *FLAGS)


@pytest.mark.slow  # minutes, most of them compiling
def test_checkpoints_play_while_a_policy_is_trained(played, uninterrupted):
    workdir, output = played
    lines = read_play(workdir)
    assert [one.step for one in checkpoints_of(lines)] == [4, 8, 10]
    assert (workdir / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()
    assert "Loss against play" in (workdir / "report.html").read_text()
    assert "Copycat check" in (workdir / "report.html").read_text()
    assert "play.log" in output
    best = vpt_jax.load_policy(workdir / BEST_BY_PLAY)
    assert best.step == best_by_play(lines).step
    assert vpt_jax.PolicyAgent.load(workdir / BEST_BY_PLAY)


@pytest.mark.slow
def test_the_best_by_play_is_evaluated_on_other_episodes(played, tmp_path):
    workdir, _ = played
    config = get_config()
    config.update_from_flattened_dict({**GAME, "episodes": 2, "out": str(tmp_path), "seed": 7_000_001})
    config.policies = (f"best={workdir / BEST_BY_PLAY}",)
    with pytest.raises(ConfigError, match="the policy best was chosen by its play"):
        evaluate(config)
    config.seed = 5_000_000
    evaluate(config)
    assert "best" in json.loads((tmp_path / "figures.json").read_text())


@pytest.mark.slow
def test_killed_and_resumed_the_same_checkpoints_have_the_same_play(played, launcher, tmp_path):
    process = launcher.start(tmp_path, *FLAGS)
    wait_until(lambda: checkpoints_of(read_play(tmp_path)), process)
    kill(process)
    with locked(tmp_path / BEST_BY_PLAY, wait=True):  # which its process holds as long as it lives
        pass
    launcher.run(tmp_path, *FLAGS)
    assert (tmp_path / "play.jsonl").read_bytes() == (played[0] / "play.jsonl").read_bytes()
