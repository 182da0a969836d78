"""The inverse dynamics loss compared with manual arithmetic, and its initial value."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.actions.minerl import BUTTON_INDEX, CAMERA, MINERL
from vpt_jax.data.augment import augment
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.baselines import FactoredMarginal
from vpt_jax.models.idm import IDMOutput, InverseDynamicsModel
from vpt_jax.training.inverse_dynamics import inverse_dynamics, inverse_dynamics_loss, predict_window

SHAPES = {"buttons": (20, 2), "camera": (2, 11)}


class Constant:
    """Model whose logits are its parameters plus the brightness of the first pixel."""

    space = MINERL

    def apply(self, variables, frames, valid):
        light = frames[:, :, 0, 0, 0, None, None] / 255
        plus = {"buttons": light * jnp.array([0, 1]), "camera": 0 * light}
        return IDMOutput({head: row + plus[head] for head, row in variables["params"].items()})


def batch(valid, frames=None):
    """Three frames: attack; attack while turning one bin right; nothing."""
    buttons, camera = np.zeros((1, 3, 20), np.uint8), np.zeros((1, 3, 2), np.float32)
    buttons[0, :2, BUTTON_INDEX["attack"]] = 1
    camera[0, 1, 1] = 0.6
    frames = np.zeros((1, 3, 8, 8, 3), np.uint8) if frames is None else frames
    return Batch(frames, buttons, camera, np.zeros((1, 3), bool), np.array([valid], bool))


@pytest.fixture
def params():
    rng = np.random.default_rng(0)
    return {head: rng.normal(size=shape).astype(np.float32) for head, shape in SHAPES.items()}


@pytest.mark.parametrize("valid", [(1, 1, 1), (1, 1, 0), (0, 1, 0), (0, 0, 0)])
def test_loss_equals_manual_arithmetic(params, valid):
    log_probs = {head: row - np.log(np.exp(row).sum(-1, keepdims=True)) for head, row in params.items()}
    frame_log_probs = []
    for attack, yaw in ((1, 5), (1, 6), (0, 5)):
        choices = [log_probs["buttons"][i, attack if i == 0 else 0] for i in range(20)]
        frame_log_probs.append(sum(choices) + log_probs["camera"][0, 5] + log_probs["camera"][1, yaw])
    expected = -np.dot(valid, frame_log_probs) / max(sum(valid), 1)
    loss, (figures, memory) = inverse_dynamics_loss(Constant(), False, False, params, (), batch(valid), None)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert int(figures["valid_frames"]) == sum(valid)
    assert memory == ()
    prediction, _ = predict_window(Constant(), params, (), batch(valid))
    np.testing.assert_allclose(prediction.loss[0], -np.array(frame_log_probs), rtol=1e-5)
    np.testing.assert_array_equal(prediction.buttons[0, 2], params["buttons"].argmax(-1))
    np.testing.assert_allclose(prediction.camera[0, 2], CAMERA.centres[params["camera"].argmax(-1)], rtol=1e-6)


def test_only_training_is_augmented_and_only_if_configured(params):
    frames, rng = np.full((1, 3, 8, 8, 3), 100, np.uint8), jax.random.key(3)
    changed = np.asarray(jax.jit(augment)(rng, frames))
    objectives = [inverse_dynamics(Constant(), (8, 8, 3), None, augmented, False) for augmented in (False, True)]
    losses = [float(jax.jit(each.loss)(params, (), batch((1, 1, 1), frames), rng)[0]) for each in objectives]
    seen = [[float(each.predict(params, (), batch((1, 1, 1), shown))[0].loss.mean()) for shown in (frames, changed)]
            for each in objectives]  # fmt: skip
    assert seen[0] == seen[1]
    assert losses == pytest.approx(seen[0])
    assert losses[0] != losses[1]


def test_only_training_is_mirrored_and_only_if_configured(params):
    objectives = [inverse_dynamics(Constant(), (8, 8, 3), None, False, mirrored) for mirrored in (False, True)]
    keys, three_frames = [jax.random.key(seed) for seed in range(20)], batch((1, 1, 1))
    plain, mirrored = ([float(each.loss(params, (), three_frames, key)[0]) for key in keys] for each in objectives)
    opposite_yaw = three_frames._replace(camera=three_frames.camera * [1, -1])
    both = [float(objectives[0].loss(params, (), shown, None)[0]) for shown in (three_frames, opposite_yaw)]
    assert set(plain) == {both[0]}
    assert set(mirrored) == set(both)
    assert objectives[1].predict(params, (), three_frames)[0].loss.mean() == pytest.approx(both[0])


def test_training_starts_at_the_marginal_distribution():
    rng = np.random.default_rng(0)
    marginal = FactoredMarginal(*(rng.dirichlet(np.ones(n), k) for k, n in SHAPES.values()))
    idm = InverseDynamicsModel(8, widths=(8,), features=32, heads=2, layers=1, temperature=2.0)
    objective = inverse_dynamics(idm, (8, 8, 3), marginal, augmented=False, mirrored=False)
    three_frames = batch((1, 1, 1))
    params = jax.jit(objective.init)(jax.random.key(0))
    loss, _ = jax.jit(partial(objective.loss, params, ()))(three_frames, jax.random.key(1))
    expected = -np.log(marginal.probabilities(MINERL, (three_frames.buttons[0], three_frames.camera[0]))).sum(1).mean()
    assert float(loss) == pytest.approx(expected, abs=0.1)  # kernels start small, not at 0
