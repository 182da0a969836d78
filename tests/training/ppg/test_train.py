"""Reinforcement learning through the launcher, in the real game."""

import json
import os
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from tests.training.conftest import kill, wait_until
from vpt_jax.training.checkpoints import load_policy

SLOW = pytest.mark.slow


@pytest.fixture(scope="session")
def start(launcher, uninterrupted):
    """Starts fine-tuning of the cloned policy in two short games."""
    flags = [
        "--config=configs/rl_doom.py", f"--config.init_from={uninterrupted}", "--config.height=32", "--config.width=32",
        "--config.game.arguments.height=36", "--config.game.arguments.width=64", "--config.game.arguments.seconds=0.5",
        "--config.model.preset=nano", "--config.num_envs=2", "--config.unroll_length=4",
        "--config.updates_per_rollout=2", "--config.save_every=1",
    ]  # fmt: skip
    return lambda workdir, *more, **options: launcher.start(workdir, *flags, *more, bare=True, **options)


@pytest.fixture(scope="session")
def play(launcher, start):
    """Runs the same fine-tuning to its end."""

    def play(workdir, *more, expected=0, **options):
        return launcher.finish(start(workdir, *more, **options), expected)

    return play


@pytest.fixture(scope="session")
def tuned(play, tmp_path_factory):
    """Work directory and output of a run of two iterations."""
    workdir = tmp_path_factory.mktemp("tuned")
    return workdir, play(workdir, "--config.steps=2")


@pytest.fixture(scope="session")
def resumed(play, tuned, tmp_path_factory):
    """Work directory and output after one more iteration in a second run."""
    workdir = shutil.copytree(tuned[0], tmp_path_factory.mktemp("resumed") / "copy")
    return workdir, play(workdir, "--config.steps=3")


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def games_of(number):
    """The PIDs of game processes below a training process."""
    children = Path(f"/proc/{number}/task/{number}/children").read_text().split()
    games = [child for child in children if b"vector/server.py" in Path(f"/proc/{child}/cmdline").read_bytes()]
    return games + [game for child in set(children) - set(games) for game in games_of(child)]


def state_of(workdir, step):
    manager = ocp.CheckpointManager((workdir / "checkpoints").absolute())
    return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore())).state


@pytest.mark.slow  # its quick sibling in test_rollout.py checks every action in this process
def test_the_update_reproduces_the_log_probs_of_the_rollout(play, tmp_path):
    """Without learning, the policy gives every action the log-probability that it had when it was taken."""
    play(tmp_path, "--config.steps=2", "--config.optimizer.learning_rate=0.0")
    for line in metrics(tmp_path):
        assert abs(line["train/kl_acting"]) < 1e-7
        assert line["train/clipped"] == 0
        assert abs(line["train/kl_pretrained"]) < 1e-6  # the pretrained policy's KV cache follows the same streams
        assert abs(line["train/sleep_kl"]) < 1e-6
        assert line["train/episodes"] > 0


def test_equal_runs_are_equal_and_learn(play, tuned, tmp_path):
    workdir, output = tuned
    play(tmp_path, "--config.steps=2")
    assert metrics(tmp_path) == metrics(workdir)
    assert "step 2/2  return " in output
    first, second = metrics(workdir)
    assert 0 < first["train/kl_pretrained"] < second["train/kl_pretrained"]
    np.testing.assert_allclose(
        [first["train/kl_pretrained_coef"], second["train/kl_pretrained_coef"]], [0.2, 0.2 * 0.9995], rtol=1e-6
    )


@pytest.mark.slow
def test_several_processes_give_the_results_of_one(play, tmp_path):
    """On the same number of devices: other orders of summation change last digits, which Adam's first steps amplify."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    play(alone, "--config.steps=2", "--config.mesh.data=2", devices=2)
    output = play(together, "--config.steps=2", processes=2)
    assert "2 process(es), 2 x cpu" in output
    for line, expected in zip(metrics(together), metrics(alone), strict=True):
        assert line == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_resuming_restores_optimizer_normaliser_and_kl_coefficient(resumed, uninterrupted):
    workdir, output = resumed
    assert "resumed from step 2" in output
    assert [line["step"] for line in metrics(workdir)] == [1, 2, 3]
    np.testing.assert_allclose(metrics(workdir)[2]["train/kl_pretrained_coef"], 0.2 * 0.9995**2, rtol=1e-6)
    state = state_of(workdir, 3)
    np.testing.assert_allclose(state["normalizer"]["debias"], 1 - 0.99999 ** (3 * 2 * (1 + 2)), rtol=1e-3)
    counts = {int(leaf) for leaf in jax.tree.leaves(state["opt_state"]) if np.ndim(leaf) == 0}
    # Iterations x updates per cycle x one wake cycle or two sleep cycles; each phase has an Adam state
    assert counts == {3 * 2 * 1, 3 * 2 * 2}
    cloned = load_policy(uninterrupted).params
    for layer in ("encoder", "transformer", "actions"):
        jax.tree.map(np.testing.assert_array_equal, state["pretrained"][layer], cloned[layer])


@pytest.mark.slow  # the test above resumes from a checkpoint too
def test_a_killed_run_repeats_its_iteration(start, play, tuned, resumed, tmp_path):
    workdir = shutil.copytree(tuned[0], tmp_path / "copy")
    process = start(workdir, "--config.steps=5")
    wait_until(lambda: len(metrics(workdir)) > 2, process)
    kill(process)
    for folder in (workdir / "checkpoints").glob("[!12]*"):
        shutil.rmtree(folder)  # the killed run may have saved this iteration
    play(workdir, "--config.steps=3")
    assert (workdir / "metrics.jsonl").read_bytes() == (resumed[0] / "metrics.jsonl").read_bytes()
    jax.tree.map(np.testing.assert_array_equal, state_of(workdir, 3), state_of(resumed[0], 3))


def test_a_stopped_run_does_not_complete_its_rollout(launcher, start, tmp_path):
    process = start(tmp_path, "--config.updates_per_rollout=10000", "--config.game.arguments.seconds=60.0", processes=2)
    wait_until(lambda: len(games_of(process.pid)) == 2, process)
    os.killpg(process.pid, signal.SIGTERM)
    assert "asked to stop after step 0" in launcher.finish(process)


def test_the_tuned_policy_is_loaded_as_any_other(tuned):
    policy = load_policy(tuned[0])
    assert policy.frame_shape == (32, 32, 3)
    assert np.any(policy.params["value"]["kernel"])  # initially zero
    assert "aux_value" in policy.params


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("init_from=", "the KL to the policy in config.init_from, which is empty"),
        ("init_from=nowhere", "config.init_from: nowhere holds no checkpoint"),
        ("model.temperature=2.0", "config.model.temperature is 2.0, and the model in"),
        ("game.python=python99", "config.game.python is 'python99', which is not a program"),
        ("rewards=gold", "config.rewards is 'gold'; choose one of diamond"),
        ("height=64", "does not match config.model or the frame size"),
        # A game that cannot be made is tried five times, with increasing pauses
        pytest.param("game.arguments.height=16", "the game renders 16x64 pixels, and 32x32 are needed", marks=SLOW),
        pytest.param("game.arguments.level=E9M9", "no Doom level is called 'E9M9'", marks=SLOW),
    ],
)
def test_invalid_fields_are_named(play, tmp_path, flag, message):
    output = play(tmp_path, f"--config.{flag}", expected=1)
    assert message in output, output
