"""An iteration of PPG, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vpt_jax import parallel
from vpt_jax.actions import JointAction
from vpt_jax.models.heads import ValueNormalizer
from vpt_jax.training.ppg.learner import Learner, LearnerState, Recipe, Rollout, prepare
from vpt_jax.training.ppg.losses import advantages

ROWS, TURNS = 2, 6


def random_rollout(memory=None):
    rng = np.random.default_rng(0)
    shape = ROWS, TURNS
    action = JointAction(np.zeros(shape, int), np.zeros(shape, int))
    return Rollout(
        frames=np.zeros((*shape, 2, 2, 3), np.uint8), first=np.zeros(shape, bool), valid=rng.random(shape) < 0.7,
        action=action, log_prob=np.zeros(shape), value=rng.normal(size=(ROWS, TURNS + 1)),
        reward=rng.normal(size=shape), terminated=rng.random(shape) < 0.2, memory=memory,
    )  # fmt: skip


def test_targets_are_advantages_and_values_and_the_normaliser_sees_the_valid_ones():
    rollout, recipe = random_rollout(), Recipe(discount=0.9, gae_decay=0.8)
    normalizer, advantage, target = prepare(recipe, ValueNormalizer.create(), rollout)
    expected = advantages(rollout.reward, rollout.value, rollout.valid, rollout.terminated, 0.9, 0.8)
    np.testing.assert_allclose(advantage, expected, rtol=1e-6)
    np.testing.assert_allclose(target, expected + rollout.value[:, :-1], rtol=1e-6)
    mean, variance = normalizer.moments()
    np.testing.assert_allclose(mean, np.asarray(target)[rollout.valid].mean(), rtol=1e-3)
    np.testing.assert_allclose(variance, np.asarray(target)[rollout.valid].var(), rtol=1e-2)


def test_normalised_advantages_have_mean_0_and_variance_1_over_valid_steps():
    rollout = random_rollout()
    _, advantage, target = prepare(Recipe(normalize_advantages=True), ValueNormalizer.create(), rollout)
    valid = np.asarray(advantage)[rollout.valid]
    np.testing.assert_allclose([valid.mean(), valid.std()], [0, 1], atol=1e-5)
    assert not np.asarray(advantage)[~rollout.valid].any()
    np.testing.assert_allclose(target, prepare(Recipe(), ValueNormalizer.create(), rollout)[2], rtol=1e-6)


def test_a_rollout_in_which_nobody_played_teaches_nothing():
    rollout = random_rollout()._replace(valid=np.zeros((ROWS, TURNS), bool))
    before = ValueNormalizer(jnp.ones(1), 2 * jnp.ones(1), jnp.ones(()))
    after, advantage, _ = prepare(Recipe(normalize_advantages=True), before, rollout)
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert not np.asarray(advantage).any()


@pytest.mark.parametrize("cycles", [0, 2])
def test_every_sleep_is_held_to_the_policy_before_the_first(monkeypatch, cycles):
    """The steps are replaced by ones that count, since only their order is looked at."""
    by_rows = parallel.batch_sharding(parallel.make_mesh(devices=jax.devices()[:1]))
    shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    learner = Learner(None, optax.sgd(0), Recipe(sleep_cycles=cycles), 3, shardings, by_rows)
    calls = []

    def wake(state, memory, pretrained_memory, fragment):
        calls.append(("wake", int(state.params), fragment.frames.shape[1], int(memory), int(pretrained_memory)))
        return state._replace(params=state.params + 1), memory + 1, pretrained_memory + 10, {"loss": jnp.zeros(())}

    def sleep(state, before, memory, memory_before, fragment):
        calls.append(("sleep", int(state.params), int(before), int(memory), int(memory_before)))
        return state._replace(params=state.params + 1), memory + 1, memory_before + 1, {"kl": jnp.zeros(())}

    monkeypatch.setattr(learner, "wake", wake)
    monkeypatch.setattr(learner, "sleep", sleep)
    state = LearnerState(jnp.zeros((), int), jnp.zeros(()), None, None, ValueNormalizer.create(), None)
    state, pretrained_memory, metrics = learner.learn(state, random_rollout(memory=jnp.array(5)), jnp.array(50))
    waking = [("wake", 0, 3, 5, 50), ("wake", 1, 3, 6, 60)]
    sleeping = [("sleep", 2, 2, 5, 5), ("sleep", 3, 2, 6, 6), ("sleep", 4, 2, 5, 5), ("sleep", 5, 2, 6, 6)]
    assert calls == waking + sleeping[: 2 * cycles]
    assert (int(state.step), int(pretrained_memory)) == (1, 70)
    assert set(metrics) == ({"loss", "kl"} if cycles else {"loss"})
