"""Greedy actions; the value normalizer over twenty updates (tests/golden/value_normalizer.npz)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.models.joint_head import JointDistribution
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.openai.weights import value_normalizer_from_openai

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "value_normalizer.npz")
META = json.loads(str(GOLDEN["meta"]))
CASES = META["cases"]


def assert_within(actual, expected, tolerance):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("case", CASES)
def test_value_normalizer_over_twenty_updates(case):
    settings, targets = CASES[case]["kwargs"], GOLDEN[f"{case}/targets"]
    decay = settings.get("beta", 0.99999)
    if settings.get("per_element_update"):
        decay **= targets[0, ..., 0].size
    normalizer, probe = ValueNormalizer.create(settings["input_shape"]), GOLDEN[f"{case}/probe"]
    np.testing.assert_allclose(normalizer.normalize(probe), GOLDEN[f"{case}/fresh/normalised"], rtol=1e-6)
    np.testing.assert_allclose(normalizer.denormalize(probe), GOLDEN[f"{case}/fresh/denormalised"], rtol=1e-6)
    steps = []
    for target in targets:
        normalizer = normalizer.update(target, np.ones(target.shape[:-1], bool), decay)
        mean, variance = normalizer.moments()
        steps.append(dict(
            running_mean=normalizer.mean, running_mean_sq=normalizer.mean_square, debiasing_term=normalizer.debias,
            mean=mean, var=variance, normalised=normalizer.normalize(target),
            normalised_eval=normalizer.normalize(probe), denormalised=normalizer.denormalize(probe),
        ))  # fmt: skip
    tolerances = dict(running_mean=5e-6, running_mean_sq=5e-6, debiasing_term=5e-6, mean=2e-5, var=2e-5,
                  normalised=1e-4, normalised_eval=5e-5, denormalised=2e-5)  # fmt: skip
    for name, tolerance in tolerances.items():
        assert_within(np.stack([step[name] for step in steps]), GOLDEN[f"{case}/{name}"], tolerance)


def test_value_loss_and_gradient():
    state = {name.removeprefix("loss/param/"): GOLDEN[name] for name in GOLDEN.files if "loss/param/" in name}
    normalizer = value_normalizer_from_openai({f"value_head.{name}": array for name, array in state.items()})

    def loss(params, features, target, normalizer):
        prediction = features @ params["linear.weight"].T + params["linear.bias"]
        return ((prediction - normalizer.normalize(target)) ** 2).mean(), prediction

    params = {name: jnp.asarray(state[name]) for name in ("linear.weight", "linear.bias")}
    for i, (features, target) in enumerate(zip(GOLDEN["loss/input"], GOLDEN["loss/target"], strict=True)):
        normalizer = normalizer.update(target, np.ones(target.shape[:-1], bool), META["loss"]["beta"])
        value_and_grad = jax.value_and_grad(loss, has_aux=True)
        (value, prediction), gradient = value_and_grad(params, features, target, normalizer)
        np.testing.assert_allclose(prediction, GOLDEN["loss/prediction"][i], atol=1e-6)
        np.testing.assert_allclose(value, GOLDEN["loss/loss"][i], rtol=1e-5)
        np.testing.assert_allclose(gradient["linear.weight"], GOLDEN["loss/grad_weight"][i], rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(gradient["linear.bias"], GOLDEN["loss/grad_bias"][i], rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(normalizer.denormalize(prediction), GOLDEN["loss/value"][i], rtol=1e-5, atol=1e-5)


def test_argmax_of_inventory_masks_the_camera():
    logits = {"buttons": np.zeros((2, 8641)), "camera": np.zeros((2, 121))}
    logits["buttons"][:, [8640, 5]] = np.diag([1, 1])  # inventory; attack while turning
    logits["camera"][:, 7] = 1
    action = JointDistribution().argmax(logits)
    assert (action.buttons.tolist(), action.camera.tolist()) == ([8640, 5], [60, 7])
