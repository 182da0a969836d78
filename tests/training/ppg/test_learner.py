"""One iteration of PPG: advantages, minibatches, and the wake and sleep phases."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vpt_jax import parallel
from vpt_jax.actions.joint import JointAction
from vpt_jax.actions.minerl import MINERL
from vpt_jax.models.joint_head import JointDistribution
from vpt_jax.models.kv_cache import KVCache
from vpt_jax.models.policy import PolicyOutput
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.training.ppg.learner import (
    Learner,
    LearnerState,
    OptStates,
    PPGConfig,
    Rollout,
    compute_targets,
    segment_order,
    sleep_step,
    take_segments,
    wake_step,
)
from vpt_jax.training.ppg.losses import Segment, compute_gae
from vpt_jax.training.roofline import find_collectives

ROWS, STEPS, LENGTH = 2, 6, 3


def random_rollout():
    rng = np.random.default_rng(0)
    shape = ROWS, STEPS
    action = JointAction(np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    segments = np.arange(ROWS * STEPS // LENGTH, dtype=np.float32).reshape(ROWS, -1, 1, 1)
    return Rollout(
        frames=np.zeros((*shape, 2, 2, 3), np.uint8), first=np.zeros(shape, bool), valid=rng.random(shape) < 0.7,
        action=action, log_prob=np.zeros(shape, np.float32), value=rng.normal(size=(ROWS, STEPS + 1)),
        reward=rng.normal(size=shape), terminated=rng.random(shape) < 0.2, truncated=np.zeros(shape, bool),
        memory=KVCache((segments,), (segments,), np.ones((ROWS, STEPS // LENGTH, 1), bool)),
    )  # fmt: skip


def test_value_targets_are_advantages_plus_values():
    rollout = random_rollout()
    advantage, target, figures = compute_targets(
        PPGConfig(discount=0.9, gae_lambda=0.8, normalize_advantages=False), rollout
    )
    expected = compute_gae(rollout.reward, rollout.value, rollout.valid, rollout.terminated, 0.9, 0.8)
    np.testing.assert_allclose(advantage, expected, rtol=1e-6)
    np.testing.assert_allclose(target, expected + rollout.value[:, :-1], rtol=1e-6)
    value, target = rollout.value[:, :-1][rollout.valid], np.asarray(target)[rollout.valid]
    np.testing.assert_allclose(figures["explained_variance"], 1 - (target - value).var() / target.var(), rtol=1e-4)


def test_normalised_advantages_have_mean_0_and_variance_1_over_valid_steps():
    """As in PPG's code; this is the default (fidelity S1)."""
    rollout = random_rollout()
    advantage, target, _ = compute_targets(PPGConfig(), rollout)
    valid = np.asarray(advantage)[rollout.valid]
    np.testing.assert_allclose([valid.mean(), valid.std()], [0, 1], atol=1e-5)
    assert not np.asarray(advantage)[~rollout.valid].any()
    np.testing.assert_allclose(target, compute_targets(PPGConfig(normalize_advantages=False), rollout)[1], rtol=1e-6)


@pytest.mark.parametrize(("bootstrap", "after"), [(False, 0.0), (True, 0.9 * 8.0)])
def test_a_time_limit_is_a_termination_or_bootstraps(bootstrap, after):
    """PPG's code has terminations only; bootstrapping is a setting (fidelity S2). Other cuts always bootstrap."""
    ppg_config = PPGConfig(discount=0.9, gae_lambda=0.8, normalize_advantages=False, bootstrap_on_truncation=bootstrap)
    shape, no = (2, 3), np.zeros((2, 3), bool)
    rollout = random_rollout()._replace(
        reward=np.array([[1.0, 2.0, 0.0]] * 2), value=np.array([[0.5, 0.25, 8.0, 4.0]] * 2), terminated=no,
        valid=np.array([[True, True, False]] * 2), truncated=np.array([[False, True, False], [False] * 3]),
    )  # fmt: skip
    advantage = np.asarray(compute_targets(ppg_config, rollout)[0])
    for row, value_after in enumerate((after, 0.9 * 8.0)):
        last = 2 + value_after - 0.25
        np.testing.assert_allclose(advantage[row], [1 + 0.9 * 0.25 - 0.5 + 0.72 * last, last, 0], rtol=1e-6)
    assert advantage.shape == shape


def test_a_rollout_without_valid_steps_changes_nothing():
    rollout = random_rollout()._replace(valid=np.zeros((ROWS, STEPS), bool))
    advantage, target, figures = compute_targets(PPGConfig(), rollout)
    assert not np.asarray(advantage).any()
    assert figures["explained_variance"] == 0
    before = ValueNormalizer(jnp.ones(1), 2 * jnp.ones(1), jnp.ones(()))
    jax.tree.map(np.testing.assert_array_equal, before.update(target[..., None], rollout.valid), before)


@pytest.mark.parametrize("cycle", [0, 1])
def test_a_cycle_uses_every_segment_of_every_game_once_at_random(cycle):
    """Segments of a minibatch are from different times; another cycle or iteration has another order (fidelity D3)."""
    rng, shape = jax.random.PRNGKey(3), (16, 8)
    five, six, current, following = (jnp.int32(number) for number in (5, 6, cycle, cycle + 1))
    order = np.asarray(segment_order(rng, five, current, shape, True))
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(8), (16, 1)))
    spread = [len(set(minibatch)) for minibatch in order.T]
    assert min(spread) > 3
    assert np.abs(order.mean(axis=0) - 3.5).max() < 2  # no minibatch is early or late in all games
    np.testing.assert_array_equal(order, segment_order(rng, five, current, shape, True))
    for others in ((rng, six, current), (rng, five, following), (jax.random.PRNGKey(4), five, current)):
        assert (order != np.asarray(segment_order(*others, shape, True))).any()
    in_order = np.asarray(segment_order(rng, five, current, shape, False))
    np.testing.assert_array_equal(in_order, np.tile(np.arange(8), (16, 1)))


def test_a_minibatch_has_the_streams_and_the_memory_of_its_segments():
    order, times = jnp.array([[1, 0], [0, 1]]), np.tile(np.arange(STEPS), (ROWS, 1))
    for batch, (first, second) in zip(jnp.arange(2), [(1, 0), (0, 1)], strict=True):
        memory, streams, nothing = take_segments(LENGTH, order, batch, random_rollout().memory, {"time": times}, None)
        np.testing.assert_array_equal(streams["time"], [range(3 * index, 3 * index + 3) for index in (first, second)])
        np.testing.assert_array_equal(np.ravel(memory.keys[0]), [first, 2 + second])
        assert nothing is None


def test_drawing_a_minibatch_needs_no_communication_between_devices():
    """Rows stay on their device: hosts are independent, and no network traffic is needed (fidelity D3)."""
    row_sharding = parallel.batch_sharding(parallel.make_mesh(devices=jax.devices()[:2]))
    rollout = random_rollout()
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=row_sharding),
        (np.zeros((ROWS, 2), np.int32), rollout.memory, rollout.frames),
    )
    draw = jax.jit(partial(take_segments, LENGTH), out_shardings=row_sharding)
    compiled = draw.lower(shapes[0], np.int32(0), *shapes[1:]).compile()
    assert not list(find_collectives(compiled.as_text(), 2))


class Constant:
    """Stub policy with constant outputs: its parameters."""

    head, space, distribution = "joint", MINERL, JointDistribution()

    @staticmethod
    def apply(variables, frames, first, memory):
        params, shape = variables["params"], first.shape
        logits = {head: jnp.zeros((*shape, classes)) for head, classes in (("buttons", 8641), ("camera", 121))}
        value, aux_value = (jnp.broadcast_to(params[name], shape) for name in ("value", "aux_value"))
        return PolicyOutput(logits, value, memory, aux_value)


def first_state(optimizer, own=True):
    params = {"value": jnp.zeros(()), "aux_value": jnp.zeros(())}
    opt_state = optimizer.init(params)
    return LearnerState(
        jnp.zeros((), jnp.int32), params, params, OptStates(opt_state, opt_state) if own else opt_state,
        ValueNormalizer.create(), jax.random.PRNGKey(0),
    )  # fmt: skip


def segment_of(targets):
    targets = jnp.asarray(targets, jnp.float32)[None]
    shape, choices = targets.shape, jnp.zeros(targets.shape, jnp.int32)
    frames, valid = jnp.zeros((*shape, 2, 2, 3), jnp.uint8), jnp.ones(shape, bool)
    zeros = jnp.zeros(shape)
    return Segment(frames, ~valid, valid, JointAction(choices, choices), zeros, zeros, targets)


EMPTY_CACHE = KVCache((), (), np.ones((1, 1), bool))
NO_LOGITS = {"buttons": jnp.zeros((1, 2, 8641)), "camera": jnp.zeros((1, 2, 121))}


@pytest.fixture(scope="module")
def steps():
    """The wake step and the sleep step, with an Adam state for each."""
    return [jax.jit(partial(step, Constant, optax.adam(0.1), PPGConfig())) for step in (wake_step, sleep_step)]


def test_the_normaliser_is_updated_with_every_minibatch_at_the_references_rate(steps):
    """Decay 0.99999 for each call of a loss in both phases (fidelity D4): after n calls, its closed form."""
    state, (wake, sleep) = first_state(optax.adam(0.1)), steps
    calls = [(wake, 1.0), (sleep, 3.0), (sleep, 7.0)] * 4
    for step, target in calls:
        state, _ = step(state, EMPTY_CACHE, segment_of([target - 1, target + 1]), NO_LOGITS)
    beta, n = 0.99999, len(calls)
    weights = [(1 - beta) * beta ** (n - 1 - i) for i in range(n)]
    np.testing.assert_allclose(state.normalizer.debias, 1 - beta**n, rtol=1e-4)
    mean = sum(w * target for w, (_, target) in zip(weights, calls, strict=True)) / (1 - beta**n)
    square = sum(w * (target**2 + 1) for w, (_, target) in zip(weights, calls, strict=True)) / (1 - beta**n)
    found, variance = state.normalizer.moments()
    np.testing.assert_allclose(found, [mean], rtol=1e-4)
    np.testing.assert_allclose(variance, [square - mean**2], rtol=1e-3)


def test_the_normaliser_follows_growing_targets_as_the_references():
    """Twelve calls per iteration instead of one: the moving average decays twelve times as fast (fidelity D4)."""
    calls, beta = 144 * 700, 0.99999  # as in the paper: 700 iterations of 48 wake and 96 sleep minibatches
    by_call = np.float64(1 - beta ** (calls - 144 * 350)) / (1 - beta**calls)  # weight of the second half
    by_iteration = (1 - beta**350) / (1 - beta**700)
    assert by_call > 0.62
    assert by_iteration < 0.51


def counts_of(state):
    """Update count of each Adam state."""
    states = state.opt_state if isinstance(state.opt_state, OptStates) else [state.opt_state]
    return [int(adam[0].count) for adam in states]


def test_the_sleep_phase_has_a_separate_or_shared_optimizer_state(steps):
    """PPG's `aux_state`; with one state, both phases share the moments (fidelity D8)."""
    wake, sleep = steps
    segment = segment_of([2.0, 4.0])
    after_wake, _ = wake(first_state(optax.adam(0.1)), EMPTY_CACHE, segment, NO_LOGITS)
    after_sleep, _ = sleep(after_wake, EMPTY_CACHE, segment, NO_LOGITS)
    assert (counts_of(after_wake), counts_of(after_sleep)) == ([1, 0], [1, 1])
    shared = after_wake._replace(opt_state=after_wake.opt_state.wake)
    after_sleep, _ = sleep(shared, EMPTY_CACHE, segment, NO_LOGITS)
    assert counts_of(after_sleep) == [2]


def test_without_a_pretrained_policy_there_is_no_kl_to_it():
    optimizer = optax.sgd(0.1)
    wake = partial(wake_step, Constant, optimizer, PPGConfig(kl_pretrained_coef=0.0))
    _, metrics = jax.eval_shape(wake, first_state(optimizer), EMPTY_CACHE, segment_of([1, 2]), None)
    assert not {"kl_pretrained", "kl_pretrained_coef"} & metrics.keys()


@pytest.mark.parametrize(("wake_cycles", "sleep_cycles", "has_pretrained"), [(1, 0, True), (2, 6, False), (1, 2, True)])
def test_samples_are_used_as_often_as_configured(monkeypatch, wake_cycles, sleep_cycles, has_pretrained):
    """The steps are replaced by counters (fidelity, section 4: sample reuse).

    The KL of every sleep cycle is to the policy before the first, evaluated from the KV caches with which it acted.
    """
    row_sharding = parallel.batch_sharding(parallel.make_mesh(devices=jax.devices()[:1]))
    shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    ppg_config = PPGConfig(wake_cycles=wake_cycles, sleep_cycles=sleep_cycles)
    learner = Learner(None, optax.sgd(0), ppg_config, LENGTH, shardings, row_sharding, has_pretrained)
    calls = []

    def step(name, loss):
        def count(state, memory, segment, logits):
            reference = None if logits is None else float(logits["p"][0, 0, 0])
            calls.append((name, np.ravel(memory.keys[0]).tolist(), reference))
            return state._replace(params=state.params + 1), {loss: jnp.zeros(()), "kl_acting": jnp.zeros(())}

        return count

    def segment_logits(params, memory, rollout, logits, segment):
        return jax.tree.map(lambda head_logits: head_logits + params, logits), memory

    monkeypatch.setattr(learner, "wake", step("wake", "loss"))
    monkeypatch.setattr(learner, "sleep", step("sleep", "kl"))
    monkeypatch.setattr(learner, "segment_logits", segment_logits)
    monkeypatch.setattr(learner, "_empty_logits", lambda rows, steps: {"p": jnp.zeros((rows, steps, 1))})
    state = first_state(optax.sgd(0))._replace(params=jnp.zeros(()), pretrained=jnp.full((), 50.0))
    state, _, metrics = learner.learn(state, random_rollout(), "memory")
    wake_calls, sleep_calls = ([call for call in calls if call[0] == name] for name in ("wake", "sleep"))
    assert calls == wake_calls + sleep_calls
    for phase_calls, cycles, logits in (
        (wake_calls, wake_cycles, 100.0 if has_pretrained else None),
        (sleep_calls, sleep_cycles, 4.0 * wake_cycles),
    ):
        assert len(phase_calls) == cycles * STEPS // LENGTH
        assert {call[2] for call in phase_calls} <= {logits}
        for game, segments in enumerate(([0, 1], [2, 3])):  # numbered in `random_rollout`
            used = [call[1][game] for call in phase_calls]
            assert sorted(used) == sorted(segments * cycles)
    assert int(state.step) == 1
    assert {"loss", "explained_variance", "kl_acting_first"} < metrics.keys()
    assert ("kl" in metrics) is (sleep_cycles > 0)
