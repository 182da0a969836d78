"""Losses and advantages of PPG in double precision, compared with explicit calculations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.actions.joint import JointAction, joint_tables
from vpt_jax.actions.minerl import MINERL
from vpt_jax.models.joint_head import JointDistribution
from vpt_jax.models.policy import PolicyOutput
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.training.ppg.losses import (
    LossWeights,
    Segment,
    clipped_surrogate_loss,
    compute_gae,
    explained_variance,
    sleep_loss,
    wake_loss,
)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


WITH, WITHOUT = np.flatnonzero(joint_tables(MINERL).has_camera)[0], np.flatnonzero(~joint_tables(MINERL).has_camera)[0]


def logits_of(camera_on, camera):
    """Logits `[1, 1, classes]` of the probabilities that the camera is on, and that it has the first of two classes."""
    buttons, classes = np.full(8641, -1e9), np.full(121, -1e9)
    buttons[[WITH, WITHOUT]] = np.log([camera_on, 1 - camera_on])
    classes[:2] = np.log([camera, 1 - camera])
    return {"buttons": jnp.asarray(buttons)[None, None], "camera": jnp.asarray(classes)[None, None]}


def random_logits(seed, *shape):
    rng = np.random.default_rng(seed)
    return {head: jnp.asarray(rng.normal(size=(*shape, n))) for head, n in (("buttons", 8641), ("camera", 121))}


class FixedPolicy:
    """Stub policy whose parameters are its output."""

    distribution = JointDistribution()

    @staticmethod
    def apply(variables, frames, first, memory):
        return PolicyOutput(memory=memory, **variables["params"])


def segment_of(action, log_prob, advantage, target, valid=None):
    shape = np.shape(advantage)
    valid = np.ones(shape, bool) if valid is None else valid
    frames, first = np.zeros((*shape, 2, 2, 3), np.uint8), np.zeros(shape, bool)
    return Segment(frames, first, valid, action, log_prob, jnp.asarray(advantage), jnp.asarray(target))


def test_advantages_of_an_episode_that_continues():
    reward, value = np.array([[1.0, 0.0]]), np.array([[0.5, 0.25, 2.0]])
    always = np.ones((1, 2), bool)
    second = 0 + 0.9 * 2.0 - 0.25
    first = 1 + 0.9 * 0.25 - 0.5 + 0.9 * 0.8 * second
    np.testing.assert_allclose(compute_gae(reward, value, always, ~always, 0.9, 0.8), [[first, second]], rtol=1e-6)


def test_advantages_where_episodes_end():
    # Steps: 0 and 1 of an episode, its last frame, 0 and 1 of the next one.
    reward = np.array([[1.0, 2.0, 0.0, 0.0, 5.0]])
    value = np.array([[0.5, 0.25, 8.0, 1.0, 3.0, 100.0]])
    valid = np.array([[1, 1, 0, 1, 1]], bool)
    cut, ended = np.zeros((1, 5), bool), np.array([[0, 1, 0, 0, 1]], bool)
    for terminated, after, last in ((cut, 8.0, 100.0), (ended, 0.0, 0.0)):
        one = 2 + 0.9 * after - 0.25
        four = 5 + 0.9 * last - 3
        expected = [1 + 0.9 * 0.25 - 0.5 + 0.72 * one, one, 0, 0 + 0.9 * 3 - 1 + 0.72 * four, four]
        np.testing.assert_allclose(compute_gae(reward, value, valid, terminated, 0.9, 0.8), [expected], rtol=1e-6)


def test_a_lost_game_bootstraps():
    """Its last action had no outcome: the return of the step before bootstraps from the value of the frame after it."""
    reward, value = np.array([[1.0, 99.0]]), np.array([[0.5, 0.25, 77.0]])
    found = compute_gae(reward, value, np.array([[True, False]]), np.zeros((1, 2), bool), 0.9, 0.8)
    np.testing.assert_allclose(found, [[1 + 0.9 * 0.25 - 0.5, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.0, 2.0, -2.0), (1.1, 2.0, -2.2), (1.5, 2.0, -2.4), (0.5, 2.0, -1.0), (1.5, -2.0, 3.0), (0.5, -2.0, 1.6)],
)
def test_clipped_surrogate_loss(ratio, advantage, loss):
    np.testing.assert_allclose(clipped_surrogate_loss(jnp.log(ratio), jnp.array(advantage), 0.2), loss, rtol=1e-6)


@pytest.mark.parametrize("log_ratio", [-1e4, -25.0, 25.0, 1e4])
@pytest.mark.parametrize("advantage", [-3.0, 0.0, 3.0])
def test_any_ratio_has_a_finite_loss_and_gradient(log_ratio, advantage):
    """There is no infinity times 0 (fidelity S10); in float32, the gradient's square is finite, too."""
    with jax.enable_x64(False):
        loss, gradient = jax.value_and_grad(clipped_surrogate_loss)(jnp.float32(log_ratio), jnp.float32(advantage), 0.2)
    assert np.isfinite([loss, gradient, np.float32(gradient) ** 2]).all()


def test_explained_variance_is_computed_over_valid_steps_only():
    value, target = np.array([[1.0, 2.0, 3.0, 99.0]]), np.array([[1.0, 3.0, 5.0, 0.0]])
    valid = np.array([[True, True, True, False]])
    np.testing.assert_allclose(explained_variance(value, target, valid), 1 - (2 / 3) / (8 / 3), rtol=1e-6)
    np.testing.assert_allclose(explained_variance(target, target, valid), 1)
    assert explained_variance(value, np.ones((1, 4)), valid) == 0  # nothing to explain


def test_the_kl_is_that_of_the_whole_joint_action():
    """The three outcomes are: no camera, and the camera's two classes."""
    p, q = np.array([0.4, 0.6 * 0.9, 0.6 * 0.1]), np.array([0.7, 0.3 * 0.2, 0.3 * 0.8])
    found = (
        JointDistribution().kl(logits_of(0.6, 0.9), logits_of(0.3, 0.2)),
        JointDistribution().kl(logits_of(0.3, 0.2), logits_of(0.6, 0.9)),
    )
    np.testing.assert_allclose(np.ravel(found), [(p * np.log(p / q)).sum(), (q * np.log(q / p)).sum()], rtol=1e-6)
    np.testing.assert_allclose(JointDistribution().entropy(logits_of(0.6, 0.9)), [[-(p * np.log(p)).sum()]], rtol=1e-6)


def test_frequencies_of_sampled_actions_equal_their_probabilities():
    logits = jax.tree.map(lambda head_logits: jnp.tile(head_logits, (1, 4000, 1)), logits_of(0.6, 0.9))
    drawn = JointDistribution().sample(jax.random.key(0), logits)
    moves = np.asarray(drawn.buttons == WITH)
    np.testing.assert_allclose(moves.mean(), 0.6, atol=0.03)
    np.testing.assert_allclose((drawn.camera == 0)[moves].mean(), 0.9, atol=0.03)
    assert set(np.asarray(drawn.camera)[~moves]) == {60}  # no movement
    log_prob = JointDistribution().log_prob(logits, drawn)
    np.testing.assert_allclose(np.exp(log_prob)[moves].max(), 0.6 * 0.9, rtol=1e-6)
    np.testing.assert_allclose(np.exp(log_prob)[~moves], 0.4, rtol=1e-6)


def wake(kl_coef=0.3, weights=LossWeights(), valid=None, logits=None, pretrained=None):  # noqa: B008 - immutable
    """The loss of two steps, the policy's parameters, and both policies' logits."""
    logits = random_logits(1, 1, 2) if logits is None else logits
    pretrained = random_logits(2, 1, 2) if pretrained is None else pretrained
    action = JointAction(np.array([[WITH, WITHOUT]]), np.array([[3, 60]]))
    log_prob = JointDistribution().log_prob(logits, action) - jnp.log(jnp.array([[1.1, 1.6]]))
    segment = segment_of(action, log_prob, [[2.0, -1.0]], [[3.0, 5.0]], valid)
    normalizer = ValueNormalizer(jnp.array([2.0]), jnp.array([8.0]), jnp.array(1.0))  # mean 2, variance 4
    params = {"logits": logits, "value": jnp.array([[0.5, 1.0]])}

    def loss(params):
        return wake_loss(FixedPolicy, weights, params, "memory", segment, pretrained, normalizer, jnp.asarray(kl_coef))

    return loss, params, logits, pretrained


def test_the_wake_loss_equals_its_terms():
    loss, params, logits, pretrained = wake(weights=LossWeights(entropy_coef=0.01))
    value, metrics = loss(params)
    policy_loss = np.mean([-2.2, 1.6])
    value_loss = np.mean([(0.5 - (3 - 2) / 2) ** 2, (1.0 - (5 - 2) / 2) ** 2])
    kl, entropy = np.mean(JointDistribution().kl(pretrained, logits)), np.mean(JointDistribution().entropy(logits))
    np.testing.assert_allclose(metrics["policy_loss"], policy_loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["value_loss"], value_loss, rtol=1e-6)
    np.testing.assert_allclose(metrics["clipped"], 0.5)
    np.testing.assert_allclose(value, policy_loss + 0.5 * value_loss + 0.3 * kl - 0.01 * entropy, rtol=1e-6)


def test_the_value_loss_has_its_own_weight_in_the_wake_phase():
    """The paper's 0.5 is the weight in the sleep phase (fidelity S12)."""
    losses = []
    for weight in (0.0, 1.0):
        loss, params, *_ = wake(weights=LossWeights(wake_value_coef=weight, sleep_value_coef=9.0))
        losses.append(loss(params))
    np.testing.assert_allclose(losses[1][0] - losses[0][0], losses[0][1]["value_loss"], rtol=1e-6)


def test_steps_that_are_not_valid_are_masked():
    loss, params, *_ = wake(valid=np.array([[True, False]]))
    metrics = loss(params)[1]
    np.testing.assert_allclose([metrics["policy_loss"], metrics["value_loss"]], [-2.2, 0], rtol=1e-6)
    gradient = jax.grad(lambda params: loss(params)[0])(params)
    assert not np.any(gradient["logits"]["buttons"][:, 1])
    assert np.any(gradient["logits"]["buttons"][:, 0])


def test_the_gradient_of_the_kl_penalty_pulls_to_the_pretrained_policy():
    """Compared with finite differences; the direction is the mass-covering one, KL(pretrained || policy)."""
    p, q = logits_of(0.6, 0.9), logits_of(0.3, 0.2)

    def kl(camera_logit):
        return JointDistribution().kl(p, q | {"camera": q["camera"].at[0, 0, 0].set(camera_logit)}).sum()

    at = float(q["camera"][0, 0, 0])
    slope = (kl(at + 1e-5) - kl(at - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(kl)(at), slope, rtol=1e-7)
    np.testing.assert_allclose(slope, 0.6 * (0.2 - 0.9), rtol=1e-7)  # P_p(moves) * (q - p)


def test_the_sleep_loss_equals_its_terms():
    logits, before = random_logits(3, 1, 2), random_logits(4, 1, 2)
    action = JointAction(np.array([[WITH, WITHOUT]]), np.array([[3, 60]]))
    segment = segment_of(action, np.zeros((1, 2)), [[0.0, 0.0]], [[3.0, 5.0]])
    normalizer = ValueNormalizer(jnp.array([2.0]), jnp.array([8.0]), jnp.array(1.0))
    params = {"logits": logits, "value": jnp.array([[0.5, 1.0]]), "aux_value": jnp.array([[0.0, 1.5]])}
    weights = LossWeights(sleep_value_coef=0.5, aux_value_coef=0.25, kl_old_policy_coef=2.0)
    value, _ = sleep_loss(FixedPolicy, weights, params, None, segment, before, normalizer)
    expected = 0.5 * (0.25 / 2) + 0.25 * (0.25 / 2) + 2 * np.mean(JointDistribution().kl(before, logits))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def numpy_ppo(logits, action, log_prob, advantage, value, target, valid):
    """PPO's loss in plain NumPy, step by step."""
    losses = []
    for row, step in zip(*np.nonzero(valid), strict=True):
        buttons, camera = (np.asarray(logits[head], np.float64)[row, step] for head in ("buttons", "camera"))
        chosen = [int(part[row, step]) for part in action]
        new = buttons[chosen[0]] - np.log(np.exp(buttons).sum())
        if joint_tables(MINERL).has_camera[chosen[0]]:
            new += camera[chosen[1]] - np.log(np.exp(camera).sum())
        ratio = np.exp(new - log_prob[row, step])
        gain = advantage[row, step]
        surrogate = min(ratio * gain, min(max(ratio, 0.8), 1.2) * gain)
        losses.append(-surrogate + 0.5 * (value[row, step] - target[row, step]) ** 2)
    return np.mean(losses)


@pytest.mark.parametrize("seed", range(5))
def test_without_kl_penalty_the_wake_loss_is_plain_ppo(seed):
    rng = np.random.default_rng(seed)
    shape = (3, 4)
    logits = random_logits(seed, *shape)
    action = JointAction(rng.integers(8641, size=shape), rng.integers(121, size=shape))
    log_prob = np.asarray(JointDistribution().log_prob(logits, action)) + rng.normal(0, 0.3, shape)
    advantage, value, target = rng.normal(size=(3, *shape))
    valid = rng.random(shape) < 0.8
    segment = segment_of(action, log_prob, advantage, target, valid)
    normalizer = ValueNormalizer(jnp.zeros(1), jnp.ones(1), jnp.ones(()))
    params = {"logits": logits, "value": jnp.asarray(value)}
    others = random_logits(99, *shape)
    found, _ = wake_loss(FixedPolicy, LossWeights(), params, None, segment, others, normalizer, jnp.zeros(()))
    expected = numpy_ppo(logits, action, log_prob, advantage, value, target, valid)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
