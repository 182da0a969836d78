"""An iteration of PPG, step by step."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vpt_jax import parallel
from vpt_jax.actions import JointAction
from vpt_jax.models.heads import ValueNormalizer
from vpt_jax.models.kv_cache import Memory
from vpt_jax.models.policy import PolicyOutput
from vpt_jax.training.ppg.learner import (
    Learner,
    LearnerState,
    OptStates,
    Recipe,
    Rollout,
    prepare,
    segment_order,
    sleep_step,
    take_segments,
    wake_step,
)
from vpt_jax.training.ppg.losses import Fragment, advantages
from vpt_jax.training.roofline import find_collectives

ROWS, TURNS, LENGTH = 2, 6, 3


def random_rollout():
    rng = np.random.default_rng(0)
    shape = ROWS, TURNS
    action = JointAction(np.zeros(shape, np.int32), np.zeros(shape, np.int32))
    segments = np.arange(ROWS * TURNS // LENGTH, dtype=np.float32).reshape(ROWS, -1, 1, 1)
    return Rollout(
        frames=np.zeros((*shape, 2, 2, 3), np.uint8), first=np.zeros(shape, bool), valid=rng.random(shape) < 0.7,
        action=action, log_prob=np.zeros(shape, np.float32), value=rng.normal(size=(ROWS, TURNS + 1)),
        reward=rng.normal(size=shape), terminated=rng.random(shape) < 0.2, truncated=np.zeros(shape, bool),
        memory=Memory((segments,), (segments,), np.ones((ROWS, TURNS // LENGTH, 1), bool)),
    )  # fmt: skip


def test_targets_are_advantages_and_values():
    rollout = random_rollout()
    advantage, target, figures = prepare(Recipe(discount=0.9, gae_decay=0.8, normalize_advantages=False), rollout)
    expected = advantages(rollout.reward, rollout.value, rollout.valid, rollout.terminated, 0.9, 0.8)
    np.testing.assert_allclose(advantage, expected, rtol=1e-6)
    np.testing.assert_allclose(target, expected + rollout.value[:, :-1], rtol=1e-6)
    value, target = rollout.value[:, :-1][rollout.valid], np.asarray(target)[rollout.valid]
    np.testing.assert_allclose(figures["explained_variance"], 1 - (target - value).var() / target.var(), rtol=1e-4)


def test_normalised_advantages_have_mean_0_and_variance_1_over_valid_steps():
    """As PPG's code has it, and the default (fidelity S1)."""
    rollout = random_rollout()
    advantage, target, _ = prepare(Recipe(), rollout)
    valid = np.asarray(advantage)[rollout.valid]
    np.testing.assert_allclose([valid.mean(), valid.std()], [0, 1], atol=1e-5)
    assert not np.asarray(advantage)[~rollout.valid].any()
    np.testing.assert_allclose(target, prepare(Recipe(normalize_advantages=False), rollout)[1], rtol=1e-6)


@pytest.mark.parametrize(("bootstrap", "after"), [(False, 0.0), (True, 0.9 * 8.0)])
def test_a_time_limit_is_an_end_or_what_its_last_picture_is_worth(bootstrap, after):
    """PPG's code knows ends alone; the other rule is a setting (fidelity S2). Cuts of other kinds always bootstrap."""
    recipe = Recipe(discount=0.9, gae_decay=0.8, normalize_advantages=False, bootstrap_on_truncation=bootstrap)
    shape, no = (2, 3), np.zeros((2, 3), bool)
    rollout = random_rollout()._replace(
        reward=np.array([[1.0, 2.0, 0.0]] * 2), value=np.array([[0.5, 0.25, 8.0, 4.0]] * 2), terminated=no,
        valid=np.array([[True, True, False]] * 2), truncated=np.array([[False, True, False], [False] * 3]),
    )  # fmt: skip
    advantage = np.asarray(prepare(recipe, rollout)[0])
    for row, worth in enumerate((after, 0.9 * 8.0)):
        last = 2 + worth - 0.25
        np.testing.assert_allclose(advantage[row], [1 + 0.9 * 0.25 - 0.5 + 0.72 * last, last, 0], rtol=1e-6)
    assert advantage.shape == shape


def test_a_rollout_in_which_nobody_played_teaches_nothing():
    rollout = random_rollout()._replace(valid=np.zeros((ROWS, TURNS), bool))
    advantage, target, figures = prepare(Recipe(), rollout)
    assert not np.asarray(advantage).any()
    assert figures["explained_variance"] == 0
    before = ValueNormalizer(jnp.ones(1), 2 * jnp.ones(1), jnp.ones(()))
    jax.tree.map(np.testing.assert_array_equal, before.update(target[..., None], rollout.valid), before)


@pytest.mark.parametrize("cycle", [0, 1])
def test_a_cycle_uses_every_segment_of_every_game_once_at_random(cycle):
    """Segments of a minibatch lie at different times; another cycle or iteration draws anew (fidelity D3)."""
    rng, shape = jax.random.PRNGKey(3), (16, 8)
    five, six, at, after = (jnp.int32(number) for number in (5, 6, cycle, cycle + 1))
    order = np.asarray(segment_order(rng, five, at, shape, True))
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(8), (16, 1)))
    spread = [len(set(minibatch)) for minibatch in order.T]
    assert min(spread) > 3
    assert np.abs(order.mean(axis=0) - 3.5).max() < 2  # no minibatch is early or late in all games
    np.testing.assert_array_equal(order, segment_order(rng, five, at, shape, True))
    for others in ((rng, six, at), (rng, five, after), (jax.random.PRNGKey(4), five, at)):
        assert (order != np.asarray(segment_order(*others, shape, True))).any()
    in_order = np.asarray(segment_order(rng, five, at, shape, False))
    np.testing.assert_array_equal(in_order, np.tile(np.arange(8), (16, 1)))


def test_a_minibatch_has_the_streams_and_the_memory_of_its_segments():
    order, turns = jnp.array([[1, 0], [0, 1]]), np.tile(np.arange(TURNS), (ROWS, 1))
    for batch, (first, second) in zip(jnp.arange(2), [(1, 0), (0, 1)], strict=True):
        memory, streams, nothing = take_segments(LENGTH, order, batch, random_rollout().memory, {"turn": turns}, None)
        np.testing.assert_array_equal(streams["turn"], [range(3 * at, 3 * at + 3) for at in (first, second)])
        np.testing.assert_array_equal(np.ravel(memory.keys[0]), [first, 2 + second])
        assert nothing is None


def test_drawing_a_minibatch_moves_nothing_between_devices():
    """Rows stay where they are: what makes hosts independent, and costs no network (fidelity D3)."""
    by_rows = parallel.batch_sharding(parallel.make_mesh(devices=jax.devices()[:2]))
    rollout = random_rollout()
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_rows),
        (np.zeros((ROWS, 2), np.int32), rollout.memory, rollout.frames),
    )
    draw = jax.jit(partial(take_segments, LENGTH), out_shardings=by_rows)
    compiled = draw.lower(shapes[0], np.int32(0), *shapes[1:]).compile()
    assert not list(find_collectives(compiled.as_text(), 2))


class Constant:
    """A "policy" that says the same of every frame: its parameters."""

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


def fragment_of(targets):
    targets = jnp.asarray(targets, jnp.float32)[None]
    shape, choices = targets.shape, jnp.zeros(targets.shape, jnp.int32)
    frames, valid = jnp.zeros((*shape, 2, 2, 3), jnp.uint8), jnp.ones(shape, bool)
    zeros = jnp.zeros(shape)
    return Fragment(frames, ~valid, valid, JointAction(choices, choices), zeros, zeros, targets)


NOTHING = Memory((), (), np.ones((1, 1), bool))
NO_LOGITS = {"buttons": jnp.zeros((1, 2, 8641)), "camera": jnp.zeros((1, 2, 121))}


@pytest.fixture(scope="module")
def steps():
    """The wake's step and the sleep's, with an Adam for each."""
    return [jax.jit(partial(step, Constant, optax.adam(0.1), Recipe())) for step in (wake_step, sleep_step)]


def test_the_normaliser_takes_every_minibatch_in_at_the_references_rate(steps):
    """0.99999 for each call of a loss, wake and sleep alike (fidelity D4): after n calls, its closed form."""
    state, (wake, sleep) = first_state(optax.adam(0.1)), steps
    calls = [(wake, 1.0), (sleep, 3.0), (sleep, 7.0)] * 4
    for step, target in calls:
        state, _ = step(state, NOTHING, fragment_of([target - 1, target + 1]), NO_LOGITS)
    beta, n = 0.99999, len(calls)
    weights = [(1 - beta) * beta ** (n - 1 - i) for i in range(n)]
    np.testing.assert_allclose(state.normalizer.debias, 1 - beta**n, rtol=1e-4)
    mean = sum(w * target for w, (_, target) in zip(weights, calls, strict=True)) / (1 - beta**n)
    square = sum(w * (target**2 + 1) for w, (_, target) in zip(weights, calls, strict=True)) / (1 - beta**n)
    found, variance = state.normalizer.moments()
    np.testing.assert_allclose(found, [mean], rtol=1e-4)
    np.testing.assert_allclose(variance, [square - mean**2], rtol=1e-3)


def test_targets_that_grow_stay_normalised_as_the_references_do():
    """Twelve calls an iteration instead of one: the average forgets twelve times as fast (fidelity D4)."""
    calls, beta = 144 * 700, 0.99999  # of the paper: 700 iterations of 48 wake and 96 sleep minibatches
    by_call = np.float64(1 - beta ** (calls - 144 * 350)) / (1 - beta**calls)  # weight of the second half
    by_iteration = (1 - beta**350) / (1 - beta**700)
    assert by_call > 0.62
    assert by_iteration < 0.51


def counts_of(state):
    """Updates by each Adam."""
    states = state.opt_state if isinstance(state.opt_state, OptStates) else [state.opt_state]
    return [int(adam[0].count) for adam in states]


def test_the_sleep_has_an_optimizer_state_of_its_own_or_the_wakes(steps):
    """PPG's `aux_state`; with one state, the wake's moments go on in the sleep (fidelity D8)."""
    wake, sleep = steps
    fragment = fragment_of([2.0, 4.0])
    woken, _ = wake(first_state(optax.adam(0.1)), NOTHING, fragment, NO_LOGITS)
    slept, _ = sleep(woken, NOTHING, fragment, NO_LOGITS)
    assert (counts_of(woken), counts_of(slept)) == ([1, 0], [1, 1])
    shared = woken._replace(opt_state=woken.opt_state.wake)
    slept, _ = sleep(shared, NOTHING, fragment, NO_LOGITS)
    assert counts_of(slept) == [2]


def test_without_a_pretrained_policy_there_is_no_kl_to_it():
    optimizer = optax.sgd(0.1)
    wake = partial(wake_step, Constant, optimizer, Recipe(leash=0.0))
    _, metrics = jax.eval_shape(wake, first_state(optimizer), NOTHING, fragment_of([1, 2]), None)
    assert not {"kl_pretrained", "leash"} & metrics.keys()


@pytest.mark.parametrize(("waking", "sleeping", "anchored"), [(1, 0, True), (2, 6, False), (1, 2, True)])
def test_samples_are_used_as_often_as_the_recipe_says(monkeypatch, waking, sleeping, anchored):
    """The steps are replaced by ones that count (fidelity, section 4: sample reuse).

    Every sleep is held to the policy before the first, and refers to it at the memories with which it acted.
    """
    by_rows = parallel.batch_sharding(parallel.make_mesh(devices=jax.devices()[:1]))
    shardings = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    recipe = Recipe(wake_cycles=waking, sleep_cycles=sleeping)
    learner = Learner(None, optax.sgd(0), recipe, LENGTH, shardings, by_rows, anchored)
    calls = []

    def step(name, loss):
        def count(state, memory, fragment, logits):
            reference = None if logits is None else float(logits["p"][0, 0, 0])
            calls.append((name, np.ravel(memory.keys[0]).tolist(), reference))
            return state._replace(params=state.params + 1), {loss: jnp.zeros(()), "kl_acting": jnp.zeros(())}

        return count

    def follow(params, memory, rollout, logits, segment):
        return jax.tree.map(lambda of_head: of_head + params, logits), memory

    monkeypatch.setattr(learner, "wake", step("wake", "loss"))
    monkeypatch.setattr(learner, "sleep", step("sleep", "kl"))
    monkeypatch.setattr(learner, "follow", follow)
    monkeypatch.setattr(learner, "_no_logits", lambda rows, turns: {"p": jnp.zeros((rows, turns, 1))})
    state = first_state(optax.sgd(0))._replace(params=jnp.zeros(()), pretrained=jnp.full((), 50.0))
    state, _, metrics = learner.learn(state, random_rollout(), "memory")
    of_wake, of_sleep = ([call for call in calls if call[0] == name] for name in ("wake", "sleep"))
    assert calls == of_wake + of_sleep
    for made, cycles, logits in ((of_wake, waking, 100.0 if anchored else None), (of_sleep, sleeping, 4.0 * waking)):
        assert len(made) == cycles * TURNS // LENGTH
        assert {call[2] for call in made} <= {logits}
        for game, segments in enumerate(([0, 1], [2, 3])):  # numbered in `random_rollout`
            used = [call[1][game] for call in made]
            assert sorted(used) == sorted(segments * cycles)
    assert int(state.step) == 1
    assert {"loss", "explained_variance", "kl_acting_first"} < metrics.keys()
    assert ("kl" in metrics) is (sleeping > 0)
