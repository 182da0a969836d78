"""Training is equal on any mesh and any number of processes, and checkpoints are resumed on other meshes."""

import json
import signal
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from vpt_jax import parallel
from vpt_jax.data.streams import StreamSettings, WindowStream
from vpt_jax.evaluation.baselines import FactoredMarginal
from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.presets import make_latent_actions
from vpt_jax.training.inverse_dynamics import inverse_dynamics
from vpt_jax.training.latent_actions import latent_actions
from vpt_jax.training.optimizers import adam
from vpt_jax.training.state import initial_state, train_step

from .conftest import wait_until

MESHES = {"8,1,1": (8, 1, 1), "2,4,1": (2, 4, 1), "2,2,2": (2, 2, 2)}
SLOW = pytest.mark.slow


def figures(workdir, name="train/loss"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def assert_same_training(workdir, uninterrupted, steps=10):
    assert len(figures(workdir)) == steps
    np.testing.assert_allclose(figures(workdir), figures(uninterrupted), rtol=1e-5)
    first_gradient = [figures(folder, "train/gradient_norm")[0] for folder in (workdir, uninterrupted)]
    np.testing.assert_allclose(*first_gradient, rtol=1e-5)


def mesh_flags(sizes):
    return [f"--config.mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), sizes, strict=True)]


@pytest.mark.parametrize("mesh", [pytest.param("8,1,1", marks=SLOW), pytest.param("2,4,1", marks=SLOW), "2,2,2"])
def test_eight_devices_compute_the_same_as_one(launcher, uninterrupted, tmp_path, mesh):
    launcher.run(tmp_path, *mesh_flags(MESHES[mesh]), devices=8)
    assert_same_training(tmp_path, uninterrupted)


@pytest.mark.parametrize("grad_accum_steps", [1, pytest.param(2, marks=SLOW)])
def test_an_inverse_dynamics_step_computes_the_same_on_any_mesh(dataset_dir, grad_accum_steps):
    data = WindowStream(StreamSettings(str(dataset_dir), "train", batch=8, length=6, nulls="keep"))
    idm = InverseDynamicsModel(8, widths=(8,), features=32, heads=2, layers=1)
    marginal = FactoredMarginal.from_stream(data)
    objective = inverse_dynamics(idm, data.frame_shape, marginal, augmented=True, mirrored=True)
    assert_same_steps_on_any_mesh(objective, data, grad_accum_steps)


@pytest.mark.slow  # the test above has the same rules for sharding
def test_a_step_of_latent_actions_computes_the_same_on_any_mesh(dataset_dir):
    data = WindowStream(StreamSettings(str(dataset_dir), "train", batch=8, length=6, nulls="keep"))
    model = make_latent_actions({"preset": "nano", "dtype": "float32", "remat": "stacks"})
    assert_same_steps_on_any_mesh(latent_actions(model, data.frame_shape, None, True, 0.25, 0.1), data)


def assert_same_steps_on_any_mesh(objective, data, grad_accum_steps=1):
    rng, optimizer = np.random.default_rng(0), adam(lambda _: 2e-4, 0.01, 5.0)
    params = jax.tree.map(
        lambda leaf: rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(np.float32),
        jax.eval_shape(objective.init, jax.random.key(0)),
    )
    start_state = initial_state(params, optimizer, objective.initial_memory(8), jax.random.PRNGKey(1))

    def two_steps(*sizes):
        mesh = Mesh(np.array(jax.devices()[: np.prod(sizes)]).reshape(sizes), parallel.AXES)
        shardings = parallel.tree_shardings(start_state, mesh, parallel.RULES["default"])
        with jax.set_mesh(mesh):
            update = partial(train_step, objective.loss, optimizer, grad_accum_steps=grad_accum_steps)
            step = jax.jit(update, out_shardings=(shardings, None))
            state, first = step(
                jax.device_put(start_state, shardings), parallel.global_batch(data.read(0, range(8)), mesh, 8)
            )
            _, second = step(state, parallel.global_batch(data.read(1, range(8)), mesh, 8))
        return [float(first["loss"]), float(first["gradient_norm"]), float(second["loss"])]

    np.testing.assert_allclose(two_steps(2, 2, 2), two_steps(1, 1, 1), rtol=1e-5)


def stop_after_two_steps(launcher, process, workdir):
    """Sends SIGTERM, as a scheduler does, after two steps; checks that the run saves."""
    wait_until(lambda: (workdir / "metrics.jsonl").exists() and len(figures(workdir)) >= 2, process)
    process.send_signal(signal.SIGTERM)
    assert "asked to stop after step" in launcher.finish(process)


def test_a_checkpoint_of_two_processes_is_resumed_on_another_mesh(launcher, uninterrupted, tmp_path):
    job = launcher.start(tmp_path, *mesh_flags((2, 4, 1)), processes=2, devices=4)
    stop_after_two_steps(launcher, job, tmp_path)
    output = launcher.run(tmp_path, *mesh_flags((2, 2, 2)), devices=8)
    assert "resumed from step" in output
    assert_same_training(tmp_path, uninterrupted)


@pytest.mark.slow  # the test above runs two processes too
def test_a_checkpoint_of_four_processes_is_resumed_with_two(launcher, uninterrupted, tmp_path):
    job = launcher.start(tmp_path, *mesh_flags((2, 4, 1)), processes=4, devices=2)
    stop_after_two_steps(launcher, job, tmp_path)
    assert "resumed from step" in launcher.run(tmp_path, *mesh_flags((2, 4, 1)), processes=2, devices=4)
    assert_same_training(tmp_path, uninterrupted)


@pytest.fixture(scope="module")
def twenty_steps(launcher, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("twenty")
    launcher.run(workdir, "--config.steps=20")
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_compute_the_same_as_one(launcher, twenty_steps, tmp_path, processes):
    options = "--config.steps=20", *mesh_flags((2, 4, 1))
    launcher.run(tmp_path, *options, processes=processes, devices=8 // processes)
    assert_same_training(tmp_path, twenty_steps, steps=20)
