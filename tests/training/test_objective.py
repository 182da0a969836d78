"""The behavioural cloning loss, the update and the schedule compared with manual arithmetic."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vpt_jax.actions.joint import joint_from_raw
from vpt_jax.actions.minerl import BUTTON_INDEX, MINERL
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.baselines import Marginal
from vpt_jax.models.joint_head import JointDistribution
from vpt_jax.models.policy import Policy, PolicyOutput
from vpt_jax.training.behavioural_cloning import cloning, cloning_loss
from vpt_jax.training.optimizers import OPTIMIZERS, adam, linear_schedule
from vpt_jax.training.state import initial_state, train_step


class Constant:
    """Policy whose logits are its parameters, the same for every frame."""

    distribution = JointDistribution()

    def apply(self, variables, frames, first, memory, text=None):
        shape = first.shape
        logits = {head: jnp.broadcast_to(row, (*shape, len(row))) for head, row in variables["params"].items()}
        return PolicyOutput(logits, jnp.zeros(shape), memory + shape[1])


def batch(valid):
    """Three frames: attack; attack while turning one bin right; nothing."""
    buttons, camera = np.zeros((1, 3, 20), np.uint8), np.zeros((1, 3, 2), np.float32)
    buttons[0, :2, BUTTON_INDEX["attack"]] = 1
    camera[0, 1, 1] = 0.6
    return Batch(np.zeros((1, 3, 8, 8, 3), np.uint8), buttons, camera, np.zeros((1, 3), bool), np.array([valid]))


@pytest.mark.parametrize("valid", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)])
def test_cloning_loss_equals_manual_arithmetic(valid):
    rng = np.random.default_rng(0)
    params = {"buttons": rng.normal(size=8641).astype(np.float32), "camera": rng.normal(size=121).astype(np.float32)}
    log_probs = {head: row - np.log(np.exp(row).sum()) for head, row in params.items()}
    # Of the last three factors attack, jump, camera: attack alone is 4, attack with camera 5; yaw one bin right is 61.
    frame_log_probs = [
        log_probs["buttons"][4],
        log_probs["buttons"][5] + log_probs["camera"][61],
        log_probs["buttons"][0],
    ]
    expected = -np.dot(valid, frame_log_probs) / max(sum(valid), 1)
    loss, (figures, memory) = cloning_loss(Constant(), params, jnp.zeros(()), batch(np.array(valid, bool)), None)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert int(figures["valid_frames"]) == sum(valid)
    assert int(memory) == 3


@pytest.mark.parametrize("temperature", [pytest.param(1.0, marks=pytest.mark.slow), 2.0])
def test_training_starts_at_the_marginal_distribution(temperature):
    three_frames = batch(np.array((1, 1, 1), bool))
    actions = joint_from_raw(MINERL, three_frames.buttons[0], three_frames.camera[0])
    marginal = Marginal.fit(MINERL, actions)
    policy = Policy(widths=(8,), features=32, heads=2, layers=1, memory_length=8, temperature=temperature)
    objective = cloning(policy, (8, 8, 3), marginal)
    params = jax.jit(objective.init)(jax.random.key(0))
    loss, _ = jax.jit(objective.loss)(params, objective.initial_memory(1), three_frames, jax.random.key(1))
    assert float(loss) == pytest.approx(
        -marginal.log_prob(MINERL, actions).mean(), abs=0.1
    )  # kernels start small, not at 0


def test_models_and_the_train_step_need_no_data_libraries():
    """On an accelerator machine that reads no dataset, JAX, Flax and Optax are enough."""
    absent = ("grain", "array_record", "tensorflow_datasets", "ml_collections", "av", "vizdoom", "cv2", "orbax")
    parts = "models.presets openai.weights training.behavioural_cloning training.inverse_dynamics training.optimizers"
    modules = ", ".join(f"vpt_jax.{part}" for part in parts.split())
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_schedule_warms_up_and_decays_linearly():
    schedule = linear_schedule(0.5, warmup_steps=10, total_steps=110)
    assert [round(float(schedule(step)), 6) for step in (0, 5, 10, 60, 110)] == [0, 0.25, 0.5, 0.25, 0]


def test_first_update_equals_manual_arithmetic():
    """Adam's first step is lr * sign(gradient); decay is lr * weight_decay * kernel, not applied to vectors."""
    params = {"kernel": jnp.array([[2.0, -4.0]]), "bias": jnp.array([3.0])}
    gradient = {"kernel": jnp.array([[30.0, -40.0]]), "bias": jnp.array([0.0])}  # norm 50, clipped to 5
    optimizer = adam(lambda step: 0.1, weight_decay=0.5, clip_norm=5.0)
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [[-0.1 - 0.1 * 0.5 * 2, 0.1 + 0.1 * 0.5 * 4]], rtol=1e-5)
    np.testing.assert_allclose(updates["bias"], [0.0])
    moments = optax.tree.get(state, "mu")
    np.testing.assert_allclose(moments["kernel"], [[0.1 * 3.0, 0.1 * -4.0]], rtol=1e-5)


def test_muon_updates_have_nearly_equal_singular_values():
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(18, 3)))[0], np.linalg.qr(rng.normal(size=(3, 3)))[0])
    gradient = jnp.asarray(left @ np.diag([1.0, 1e-1, 1e-2]) @ right, jnp.float32)
    gradients = {"conv": {"kernel": gradient.reshape(3, 3, 2, 3), "bias": gradient[0]}, "actions": {"kernel": gradient}}
    optimizer = OPTIMIZERS["muon"](lambda step: 0.1, 0.0, 5.0)
    updates, _ = optimizer.update(gradients, optimizer.init(gradients), gradients)
    kernel = np.asarray(updates["conv"]["kernel"]).reshape(18, 3)
    sizes = np.linalg.svd(kernel)[1] / (0.1 * 18**0.5)  # 1 where every weight moves by 0.1, as with Adam
    assert sizes.max() < 1.3  # five Newton-Schulz iterations are no more precise
    assert sizes.min() > 0.5
    np.testing.assert_allclose(-left.T @ kernel @ right.T / (0.1 * 18**0.5), np.diag(sizes), atol=0.02)
    for leaf, given in ((updates["conv"]["bias"], gradient[0]), (updates["actions"]["kernel"], gradient)):
        np.testing.assert_allclose(
            leaf / -jnp.sign(given), jnp.full(leaf.shape, (leaf / -jnp.sign(given)).mean()), 1e-3
        )


def test_train_step_carries_memory_without_gradient_and_counts():
    def loss(params, memory, batch, rng):
        value = (params * memory * batch).sum()
        return value, ({"noise": jax.random.uniform(rng)}, params * 2)  # a memory that depends on the parameters

    optimizer = optax.sgd(1.0)
    state = initial_state(jnp.array(3.0), optimizer, jnp.array(1.0), jax.random.PRNGKey(0))
    step = jax.jit(partial(train_step, loss, optimizer))
    first, figures = step(state, jnp.array(1.0))
    assert (float(first.params), float(first.memory), int(first.step)) == (2.0, 6.0, 1)  # gradient: memory * batch = 1
    second, more = step(first, jnp.array(1.0))
    assert float(second.params) == -4.0  # gradient 6: the memory is a constant, although computed from params
    assert float(figures["gradient_norm"]) == 1.0
    assert float(figures["noise"]) != float(more["noise"])
    assert float(step(state, jnp.array(1.0))[1]["noise"]) == float(figures["noise"])


def test_gradient_accumulation_gives_the_step_of_the_whole_batch():
    rng = np.random.default_rng(0)
    valid = rng.random((8, 3)) < 0.6
    rows = Batch(
        rng.integers(0, 256, (8, 3, 8, 8, 3), np.uint8), rng.integers(0, 2, (8, 3, 20), np.uint8),
        rng.normal(0, 4, (8, 3, 2)).astype(np.float32), np.zeros((8, 3), bool), valid,
    )  # fmt: skip
    policy = Policy(widths=(8,), features=32, heads=2, layers=1, memory_length=4)
    objective = cloning(
        policy, (8, 8, 3), Marginal.fit(MINERL, joint_from_raw(MINERL, rows.buttons[0], rows.camera[0]))
    )
    memory = jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape)).astype(leaf.dtype), policy.initial_memory(8))
    shapes = jax.eval_shape(objective.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)
    state = initial_state(params, optax.sgd(0.1), memory, jax.random.PRNGKey(0))
    whole, figures = jax.jit(partial(train_step, objective.loss, optax.sgd(0.1)))(state, rows)
    accumulated, same = jax.jit(partial(train_step, objective.loss, optax.sgd(0.1), grad_accum_steps=4))(state, rows)
    assert int(same["valid_frames"]) == valid.sum()
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(same[name], figures[name], rtol=1e-5)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), accumulated.params, whole.params)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), accumulated.memory, whole.memory)
