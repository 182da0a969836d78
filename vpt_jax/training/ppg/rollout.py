"""Rollout collection: samples an action for every game at each step, and stacks the transitions into rollouts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, UInt8, UInt32

from vpt_jax import parallel
from vpt_jax.envs.vector.pool import TimeStep, VectorEnv
from vpt_jax.models.acting import ActionSample, describe_actions
from vpt_jax.models.kv_cache import KVCache, RingKVCache, to_kv_cache
from vpt_jax.models.policy import Policy, apply_single_step
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.training.ppg.learner import Rollout


def sample_actions(
    policy: Policy,
    params: Any,
    normalizer: ValueNormalizer,
    ring: RingKVCache,
    frames: UInt8[Array, "b h w 3"],
    first: Bool[Array, " b"],
    rng: UInt32[Array, "2"],
    step: int,
) -> tuple[ActionSample, RingKVCache]:
    """Sample actions from the policy, with the key `fold_in(rng, step)`; also returns the updated KV cache."""
    output = apply_single_step(policy, params, frames, first, ring)
    action = policy.distribution.sample(jax.random.fold_in(rng, step), output.logits)
    return describe_actions(policy.distribution, output, normalizer, action), output.memory


def empty_memories(policy: Policy, rows: int, segments: int) -> KVCache:
    """Returns zeros for the KV caches of all environments before each segment: leaves `[rows, segments, ...]`."""
    memory = policy.initial_memory(rows)
    return jax.tree.map(lambda leaf: jnp.zeros((rows, segments, *leaf.shape[1:]), leaf.dtype), memory)


def store_memory(memories: KVCache, ring: RingKVCache, index: Int[Array, ""]) -> KVCache:
    """Store the KV cache before segment `index` in the buffer, in temporal order."""
    return jax.tree.map(lambda buffer, cache: buffer.at[:, index].set(cache), memories, to_kv_cache(ring))


class RolloutCollector:
    """Collects rollouts with a policy on a mesh, in `num_envs` environments over all hosts.

    `pool` holds those of this host. `length` is the number of steps in a segment: the KV cache before each segment is
    stored in the rollout, as the initial state for training.
    """

    def __init__(
        self, policy: Policy, pool: VectorEnv, mesh: Mesh, num_envs: int, length: int, rng: UInt32[Array, "2"]
    ):
        row_sharding: Any = parallel.batch_sharding(mesh)
        replicated: Any = NamedSharding(mesh, PartitionSpec())
        ring = RingKVCache(row_sharding, row_sharding, row_sharding, replicated)
        self._place = partial(parallel.global_batch, mesh=mesh, batch=num_envs)
        sample = partial(sample_actions, policy)
        self._sample_actions = jax.jit(sample, donate_argnums=2, out_shardings=(row_sharding, ring))
        self._empty = jax.jit(partial(empty_memories, policy, num_envs), static_argnums=0, out_shardings=row_sharding)
        self._store = jax.jit(store_memory, donate_argnums=0, out_shardings=row_sharding)
        self._copy = jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=ring)
        self._ring = jax.jit(policy.initial_ring_memory, static_argnums=0, out_shardings=ring)(num_envs)
        self._pool, self._length, self._rng, self._num_steps = pool, length, jax.device_get(rng), 0
        self._time_step = pool.begin()

    def collect(
        self, params: Any, normalizer: ValueNormalizer, num_steps: int, stop: Callable[[], bool] = lambda: False
    ) -> Rollout | None:
        """Collect the next `num_steps` (whole segments) of all environments; None if `stop` returns True meanwhile."""
        memories, steps = self._empty(num_steps // self._length), []
        for step in range(num_steps):
            if step % self._length == 0:
                memories = self._store(memories, self._ring, np.int32(step // self._length))
            observed, action = self._time_step, self._step(params, normalizer)
            steps.append(_transition(observed, action, self._time_step))
            if stop():
                return None
        ring = self._copy(self._ring)  # the argument is donated, and this step has yet to be played
        last, _ = self._sample(params, normalizer, ring)
        stacked = jax.tree.map(lambda *arrays: np.stack(arrays, axis=1), *steps)
        value = np.concatenate([stacked.pop("value"), last.value[:, None]], axis=1)
        return Rollout(**self._place(stacked | {"value": value}), memory=memories)

    def _step(self, params: Any, normalizer: ValueNormalizer) -> Any:
        """Play one step of all environments; returns the `ActionSample` of this host's environments."""
        action, self._ring = self._sample(params, normalizer, self._ring)
        self._time_step, self._num_steps = self._pool.step(action.buttons, action.camera), self._num_steps + 1
        return action

    def _sample(self, params: Any, normalizer: ValueNormalizer, ring: RingKVCache) -> tuple[Any, RingKVCache]:
        """Sample the next actions; returns the `ActionSample` of this host's environments, and the updated KV cache."""
        observed = self._place((self._time_step.frames, self._time_step.first))
        action, ring = self._sample_actions(params, normalizer, ring, *observed, self._rng, np.int32(self._num_steps))
        return parallel.local_batch(action), ring


def _transition(observed: TimeStep, action: ActionSample, outcome: TimeStep) -> dict[str, Any]:
    """The fields of a `Rollout` for one step, with leaves `[b, ...]`."""
    return dict(
        frames=observed.frames, first=observed.first, valid=observed.playing & outcome.acted, action=action.action,
        log_prob=action.log_prob, value=action.value, reward=outcome.reward, terminated=outcome.terminated,
        truncated=outcome.truncated,
    )  # fmt: skip
