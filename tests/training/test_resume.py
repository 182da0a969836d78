"""Killed, stopped and uninterrupted runs: bitwise equal parameters, optimizer state and metrics."""

import json
import os
import shutil
import signal

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from vpt_jax.openai.convert import export_weights, import_weights
from vpt_jax.training.checkpoints import WrongStageError, load_idm, load_latent_actions, load_policy

from .conftest import Launcher, kill, wait_until


def final_state(workdir, step=10):
    return ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "state").absolute())


def assert_same_run(workdir, uninterrupted):
    actual, expected = final_state(workdir), final_state(uninterrupted)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for value, wanted in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(np.asarray(value), np.asarray(wanted), strict=True)
    assert (workdir / "metrics.jsonl").read_bytes() == (uninterrupted / "metrics.jsonl").read_bytes()


def steps_logged(workdir):
    path = workdir / "metrics.jsonl"
    return path.read_text().count("train/loss") if path.exists() else 0


def kill_during_save(launcher, workdir, step):
    """Kills a run while a checkpoint is being written; tries again if it is complete before the signal arrives."""
    checkpoints = workdir / "checkpoints"
    for _ in range(5):
        process = launcher.start(workdir)
        wait_until(lambda: list(checkpoints.glob(f"{step}.*tmp*")), process)
        kill(process)
        if not (checkpoints / str(step)).exists():
            return
        shutil.rmtree(checkpoints / str(step))
    raise AssertionError("no kill came during the save")


def test_resume_after_kills_between_and_during_saves_is_identical(launcher, uninterrupted, tmp_path):
    process = launcher.start(tmp_path)
    wait_until(lambda: steps_logged(tmp_path) >= 2, process)  # before any checkpoint
    kill(process)

    checkpoints = tmp_path / "checkpoints"
    kill_during_save(launcher, tmp_path, 4)
    kill_during_save(launcher, tmp_path, 8)  # the first checkpoint must serve
    output = launcher.run(tmp_path)
    assert "resumed from step 4" in output
    assert not list(checkpoints.glob("*tmp*"))
    assert_same_run(tmp_path, uninterrupted)


def test_sigterm_saves_exits_with_0_and_resumes_identically(launcher, uninterrupted, tmp_path):
    process = launcher.start(tmp_path)
    wait_until(lambda: steps_logged(tmp_path) >= 1, process)
    os.killpg(process.pid, signal.SIGTERM)  # as a scheduler does: to the loader's workers too
    assert "asked to stop after step" in launcher.finish(process)
    saved = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert saved < 10
    output = launcher.run(tmp_path, "--config.data.workers=0", "--config.data.valid_workers=1")
    assert f"resumed from step {saved}" in output
    assert "in 2 starts: " in output
    assert json.loads((tmp_path / "goodput.json").read_text())["step"] == 10
    assert_same_run(tmp_path, uninterrupted)


def test_an_inverse_dynamics_run_resumes_identically(idm_launcher, uninterrupted_idm, tmp_path):
    process = idm_launcher.start(tmp_path)
    wait_until(lambda: (tmp_path / "checkpoints" / "4").exists(), process)
    kill(process)
    output = idm_launcher.run(tmp_path)
    assert "resumed from step" in output
    assert_same_run(tmp_path, uninterrupted_idm)


@pytest.mark.slow  # three starts; what differs from the runs above is the objective
def test_latent_actions_resume_identically_and_initialize_a_model_that_labels(dataset_dir, tmp_path):
    launcher = Launcher("latent_actions.py:demo", dataset_dir)
    launcher.run(tmp_path / "uninterrupted")
    process = launcher.start(tmp_path / "killed")
    wait_until(lambda: (tmp_path / "killed" / "checkpoints" / "4").exists(), process)
    kill(process)
    assert "resumed from step" in launcher.run(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "uninterrupted")

    labeller = Launcher("latent_idm.py:demo", dataset_dir)
    labeller.run(tmp_path / "labeller", f"--config.init_from={tmp_path / 'killed'}")
    latent, params = load_latent_actions(tmp_path / "killed").params, load_idm(tmp_path / "labeller").params
    jax.tree.map(np.testing.assert_array_equal, params["latent"], latent["latent"])


def test_a_finished_run_is_not_changed(launcher, uninterrupted):
    before = (uninterrupted / "metrics.jsonl").read_bytes()
    assert "resumed from step 10" in launcher.run(uninterrupted)
    assert (uninterrupted / "metrics.jsonl").read_bytes() == before


def test_the_trained_policy_is_loaded_from_the_work_directory(uninterrupted, tmp_path):
    policy, params, *_ = load_policy(uninterrupted)
    jax.tree.map(np.testing.assert_array_equal, params, final_state(uninterrupted)["params"])
    frames, first = np.zeros((2, 3, 32, 32, 3), np.uint8), np.zeros((2, 3), bool)
    output = jax.jit(policy.apply)({"params": params}, frames, first, policy.initial_memory(2))
    assert output.logits["camera"].shape == (2, 3, 121)
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        load_policy(tmp_path)


def test_export_and_import_of_the_trained_policy(uninterrupted, tmp_path):
    export_weights(uninterrupted, tmp_path / "a.weights")
    import_weights(tmp_path / "a.model", tmp_path / "a.weights", tmp_path / "run")
    trained, back = load_policy(uninterrupted), load_policy(tmp_path / "run")
    assert (trained.module, trained.frame_shape) == (back.module, back.frame_shape)
    jax.tree.map(np.testing.assert_array_equal, trained.params, back.params)


def test_the_trained_inverse_dynamics_model_is_loaded_with_its_settings(uninterrupted_idm):
    idm = load_idm(uninterrupted_idm)
    assert (idm.frame_shape, idm.window, idm.step) == ((32, 32, 3), 6, 10)
    jax.tree.map(np.testing.assert_array_equal, idm.params, final_state(uninterrupted_idm)["params"])
    logits = jax.jit(idm.module.apply)({"params": idm.params}, np.zeros((2, 3, 32, 32, 3), np.uint8)).logits
    assert logits["camera"].shape == (2, 3, 2, 11)


def test_a_model_of_another_stage_is_refused(uninterrupted, uninterrupted_idm):
    with pytest.raises(WrongStageError, match="a training run of stage 'policy', and this needs one of 'idm'"):
        load_idm(uninterrupted)
    with pytest.raises(WrongStageError, match="a training run of stage 'idm', and this needs one of 'policy'"):
        load_policy(uninterrupted_idm)


def test_resuming_with_other_settings_is_refused(launcher, uninterrupted):
    before = (uninterrupted / "config.json").read_text()
    output = launcher.run(uninterrupted, "--config.data.length=12", "--config.model.temperature=2.0", expected=1)
    assert (uninterrupted / "config.json").read_text() == before
    assert "stream.length was 6 and is now 12" in output
    assert "model.temperature was 1.0 and is now 2.0" in output
    assert "another --config.workdir" in output


@pytest.mark.slow
def test_a_run_resumes_with_another_rematerialization(launcher, uninterrupted, tmp_path):
    """The numbers differ by rounding alone: the steps after it have the same loss to 1e-4."""
    workdir = shutil.copytree(uninterrupted, tmp_path / "run")
    for step in (8, 10):
        shutil.rmtree(workdir / "checkpoints" / str(step))
    assert "resumed from step 4" in launcher.run(workdir, "--config.model.remat=stacks")
    assert json.loads((workdir / "config.json").read_text())["model"]["remat"] == "stacks"
    losses, expected = (
        [line["train/loss"] for line in map(json.loads, text.splitlines()) if "train/loss" in line]
        for text in ((folder / "metrics.jsonl").read_text() for folder in (workdir, uninterrupted))
    )
    assert len(losses) == 10
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[:4] == expected[:4]
