"""Rollouts and updates in one process: a small policy in toy environments, on meshes of one and of two devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vpt_jax import parallel
from vpt_jax.envs.vector.pool import TimeStep
from vpt_jax.models.joint_head import JointDistribution
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.training.ppg.learner import Learner, PPGConfig, segment_order, take_segments
from vpt_jax.training.ppg.rollout import RolloutCollector, count_parts
from vpt_jax.training.ppg.setup import initial_state

GAMES, LENGTH, SEGMENTS = 4, 5, 4
POLICY = Policy(widths=(4,), features=16, heads=2, layers=1, memory_length=4, aux_value=True)
SHAPE = (8, 8, 3)


class ToyVectorEnv:
    """Toy environments; frames encode row, episode, step and last camera; row `r` has episodes of `5 + r` steps."""

    wait_seconds, lost = 0.0, 0

    def __init__(self, rows=range(GAMES)):
        self._rows = np.array(rows)
        n = len(self._rows)
        self._lengths, self._steps = 5 + self._rows, np.zeros(n, int)
        self._episodes, self._camera = np.zeros(n, int), np.zeros((n, 2), np.float32)
        self._next = self._time_step(first=self._steps == 0, acted=np.zeros(n, bool))

    def send(self, buttons, camera):
        assert self._next is None  # the last time step was received
        over = self._steps == self._lengths
        self._steps, self._episodes = np.where(over, 0, self._steps + 1), self._episodes + over
        self._camera = camera
        self._next = self._time_step(first=over, acted=~over)

    def receive(self):
        time_step, self._next = self._next, None
        return time_step

    def episodes(self):
        return []

    def _time_step(self, first, acted):
        rng = np.random.default_rng(0).integers(0, 256, (7, 11, *SHAPE), np.uint8)
        frames = rng[(self._rows + 3 * self._episodes) % 7, self._steps].copy()
        frames[:, 0, 0, 0] += (10 * self._camera[:, 1]).astype(np.uint8)
        cut = acted & (self._steps == self._lengths)
        reward = np.where(acted, np.sin(self._steps + self._camera[:, 0]), 0).astype(np.float32)
        false = np.zeros(len(self._rows), bool)
        return TimeStep(frames, self._episodes, first, self._steps < self._lengths, acted, reward, false, cut)


def random_params():
    """Random parameters, without compiling their initialization."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(partial(init_params, POLICY, SHAPE), jax.random.key(0))
    return jax.tree.map(lambda leaf: (0.3 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


def make_collector(mesh, parts=2):
    pools = [ToyVectorEnv(range(part, GAMES, parts)) for part in range(parts)]
    return RolloutCollector(POLICY, pools, mesh, GAMES, LENGTH, jax.random.PRNGKey(7))


def test_a_rollout_of_two_halves_is_that_of_all_environments_together():
    """Actions depend on seed, step and row alone, so that a run may change its number of devices."""
    rollouts = []
    for devices, parts in ((1, 1), (1, 2), (2, 2)):
        mesh = parallel.make_mesh(devices=jax.devices()[:devices])
        assert count_parts(GAMES, mesh, wanted=2) == 2
        assert count_parts(GAMES, mesh) == 1  # on CPUs
        collector, params = make_collector(mesh, parts), random_params()
        collector.collect(params, ValueNormalizer.create(), LENGTH * SEGMENTS)
        rollouts.append(jax.device_get(collector.collect(params, ValueNormalizer.create(), LENGTH * SEGMENTS)))
    for other in rollouts[1:]:
        for name in ("frames", "first", "valid", "action", "terminated", "truncated"):
            jax.tree.map(np.testing.assert_array_equal, getattr(other, name), getattr(rollouts[0], name))
        jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), other, rollouts[0])
    assert len({*rollouts[0].action.buttons.flat}) > GAMES


@pytest.mark.parametrize(("num_envs", "devices", "parts"), [(1, 1, 1), (2, 1, 2), (40, 8, 1), (48, 8, 2), (8, 8, 1)])
def test_environments_are_halved_where_every_device_has_an_even_number(num_envs, devices, parts):
    assert count_parts(num_envs, parallel.make_mesh(devices=jax.devices()[:devices]), wanted=2) == parts


def test_random_segments_reproduce_the_log_probs_of_the_rollout():
    """Each segment starts with the KV cache that was stored while acting (fidelity D3, D11)."""
    collector, params = make_collector(parallel.make_mesh(devices=jax.devices()[:1])), random_params()
    collector.collect(params, ValueNormalizer.create(), LENGTH * SEGMENTS)  # so that KV caches are not empty
    rollout = collector.collect(params, ValueNormalizer.create(), LENGTH * SEGMENTS)
    streams = rollout.frames, rollout.first, rollout.valid, rollout.action, rollout.log_prob
    order = segment_order(jax.random.PRNGKey(0), jnp.int32(0), jnp.int32(0), (GAMES, SEGMENTS), True)
    assert len({tuple(segments) for segments in np.asarray(order)}) > 1
    apply, num_valid = jax.jit(POLICY.apply), 0
    for batch in jnp.arange(SEGMENTS):
        memory, *segment_streams = take_segments(LENGTH, order, batch, rollout.memory, *streams)
        frames, first, valid, action, log_prob = segment_streams
        output = apply({"params": params}, frames, first, memory)
        ratio = np.where(valid, JointDistribution().log_prob(output.logits, action) - log_prob, 0)
        np.testing.assert_allclose(ratio, 0, atol=2e-5)
        num_valid += valid.sum()
    assert num_valid == rollout.valid.sum() > 0.7 * GAMES * LENGTH * SEGMENTS


def run_iterations(devices, learning_rate, iterations=2, **settings):
    """The metrics of each iteration, and the last state."""
    mesh = parallel.make_mesh(devices=jax.devices()[:devices])
    ppg_config, optimizer, params = PPGConfig(**settings), optax.sgd(learning_rate), random_params()
    with jax.set_mesh(mesh):
        init_state = partial(initial_state, optimizer, True, 0)
        shapes = jax.eval_shape(init_state, params, ValueNormalizer.create())
        shardings = parallel.tree_shardings(shapes, mesh, parallel.RULES["default"])
        row_sharding = parallel.batch_sharding(mesh)
        learner = Learner(POLICY, optimizer, ppg_config, LENGTH, shardings, row_sharding)
        state = jax.jit(init_state, out_shardings=shardings)(params, ValueNormalizer.create())
        memory = jax.jit(partial(POLICY.initial_memory, GAMES), out_shardings=row_sharding)()
        collector, log = make_collector(mesh), []
        for _ in range(iterations):
            rollout = collector.collect(state.params, state.normalizer, LENGTH * SEGMENTS)
            state, memory, metrics = learner.learn(state, rollout, memory)
            log.append({name: float(value) for name, value in metrics.items()})
        return log, jax.device_get(state)


@pytest.mark.slow  # compiles all programs of learning; the test above is its quick sibling
def test_with_learning_rate_0_all_kls_are_0():
    """The policy equals the one that acted, the pretrained one, and the one before the sleep phase."""
    log, _ = run_iterations(devices=1, learning_rate=0.0)
    for metrics in log:
        assert abs(metrics["kl_acting"]) < 1e-7
        assert abs(metrics["kl_acting_first"]) < 1e-7
        assert metrics["clipped"] == 0
        assert abs(metrics["kl_pretrained"]) < 1e-6
        assert abs(metrics["sleep_kl"]) < 1e-6


@pytest.mark.slow  # compiles all programs of learning for two meshes
def test_any_number_of_devices_draws_the_same_minibatches_and_learns_the_same():
    """The order of segments is independent of the devices, and sums differ in their last digits only (fidelity D3)."""
    (one, state), (two, other) = (run_iterations(devices, learning_rate=0.01) for devices in (1, 2))
    for metrics, expected in zip(two, one, strict=True):
        assert metrics == pytest.approx(expected, rel=1e-4, abs=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5), other.params, state.params)
