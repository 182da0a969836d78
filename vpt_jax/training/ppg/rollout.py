"""Rollout collection: samples an action for every game at each step, and stacks the transitions into rollouts.

The games may be in two halves, each a vectorized environment: while the policy is asked for the actions of one half,
the other half plays.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Int, Shaped, UInt8, UInt32

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
    rows: tuple[int, int],
) -> tuple[ActionSample, RingKVCache]:
    """Sample actions from the policy; also returns the updated KV cache.

    The environments are rows `rows[0]`, `rows[0] + rows[1]`, ... of all. Each has a key of its own, of its row and the
    step, so that its actions do not depend on which others are in the batch.
    """
    output = apply_single_step(policy, params, frames, first, ring)
    start, stride = rows
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.fold_in(rng, step)))(start + stride * jnp.arange(len(first)))
    action = jax.vmap(policy.distribution.sample)(keys, output.logits)
    return describe_actions(policy.distribution, output, normalizer, action), output.memory


def empty_memories(policy: Policy, rows: int, parts: int, segments: int) -> KVCache:
    """Returns zeros for the KV caches of all environments before each segment: `[rows / parts, parts, segments, ...]`.

    Environment `row` is in part `row % parts`, so that the environments of every device are split evenly.
    """
    memory = policy.initial_memory(rows // parts)
    return jax.tree.map(lambda leaf: jnp.zeros((len(leaf), parts, segments, *leaf.shape[1:]), leaf.dtype), memory)


def store_memory(memories: KVCache, ring: RingKVCache, part: Int[Array, ""], index: Int[Array, ""]) -> KVCache:
    """Store the KV cache of a part before segment `index` in the buffer, in temporal order."""
    return jax.tree.map(lambda buffer, cache: buffer.at[:, part, index].set(cache), memories, to_kv_cache(ring))


def merge_parts(memories: KVCache) -> KVCache:
    """Returns the KV caches of all environments: leaves `[rows, segments, ...]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), memories)


def count_parts(num_envs: int, mesh: Mesh, wanted: int = 0) -> int:
    """Number of parts, 1 or 2, that the environments are split into.

    Two parts need an even number of environments on every device. By default (0), they are used where the policy runs
    on an accelerator: on CPUs, it competes with the games for the cores, and a batch of half the size costs more.
    """
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    wanted = wanted or (1 if mesh.devices.flat[0].platform == "cpu" else 2)
    return 1 if num_envs // devices % 2 else wanted


class _Part:
    """Environments that are stepped together: their policy's KV cache, and the transitions of the current rollout."""

    def __init__(self, pool: VectorEnv, ring: RingKVCache):
        self.pool, self.ring, self.steps = pool, ring, list[dict[str, Any]]()
        self.time_step: TimeStep = pool.receive()
        self._action: ActionSample | None = None  # that the environments carry out

    def send(self, action: ActionSample) -> None:
        """Begin to carry out actions."""
        self.pool.send(np.asarray(action.buttons), np.asarray(action.camera))
        self._action = action

    def receive(self) -> None:
        """Wait for the outcome of the last actions, if there were any, and keep the transitions."""
        if self._action is not None:
            observed, self.time_step = self.time_step, self.pool.receive()
            self.steps.append(_transition(observed, self._action, self.time_step))
            self._action = None

    def take_steps(self) -> dict[str, Any]:
        """Returns the transitions as the fields of a `Rollout`, `[b, t, ...]`, and forgets them."""
        steps, self.steps = self.steps, []
        return jax.tree.map(lambda *arrays: np.stack(arrays, axis=1), *steps)


class RolloutCollector:
    """Collects rollouts with a policy on a mesh, in `num_envs` environments over all hosts.

    `pools` are the vectorized environments of this host, started: all rows, or every second row from 0 and from 1
    (`count_parts`). `length` is the number of steps in a segment: the KV cache before each segment is stored in the
    rollout, as the initial state for training.
    """

    def __init__(
        self,
        policy: Policy,
        pools: Sequence[VectorEnv],
        mesh: Mesh,
        num_envs: int,
        length: int,
        rng: UInt32[Array, "2"],
    ):
        row_sharding: Any = parallel.batch_sharding(mesh)
        replicated: Any = NamedSharding(mesh, PartitionSpec())
        ring = RingKVCache(row_sharding, row_sharding, row_sharding, replicated)
        parts, jit_rows = len(pools), partial(jax.jit, out_shardings=row_sharding)
        self._place = partial(parallel.global_batch, mesh=mesh)
        sample = partial(sample_actions, policy)
        self._sample_actions = jax.jit(sample, donate_argnums=2, out_shardings=(row_sharding, ring))
        self._empty = jit_rows(partial(empty_memories, policy, num_envs, parts), static_argnums=0)
        self._store, self._merge = jit_rows(store_memory, donate_argnums=0), jit_rows(merge_parts, donate_argnums=0)
        self._copy = jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=ring)
        make_ring = jax.jit(policy.initial_ring_memory, static_argnums=0, out_shardings=ring)
        self.acting_seconds = 0.0  # spent sampling actions
        self._num_envs, self._length, self._rng, self._num_steps = num_envs, length, jax.device_get(rng), 0
        self._parts = [_Part(pool, make_ring(num_envs // parts)) for pool in pools]

    def collect(
        self, params: Any, normalizer: ValueNormalizer, num_steps: int, stop: Callable[[], bool] = lambda: False
    ) -> Rollout | None:
        """Collect the next `num_steps` (whole segments) of all environments; None if `stop` returns True meanwhile."""
        memories = self._empty(num_steps // self._length)
        for step in range(num_steps):
            for number, part in enumerate(self._parts):
                if step % self._length == 0:
                    memories = self._store(memories, part.ring, np.int32(number), np.int32(step // self._length))
                part.receive()
                action, part.ring = self._sample(params, normalizer, number, part.ring)
                part.send(action)
            self._num_steps += 1
            if stop():
                return None
        parts = [self._finish(params, normalizer, number) for number in range(len(self._parts))]
        rows = jax.tree.map(interleave, *parts)
        return Rollout(**self._place(rows, batch=self._num_envs), memory=self._merge(memories))

    def _finish(self, params: Any, normalizer: ValueNormalizer, number: int) -> dict[str, Any]:
        """Returns the transitions of a part, with the values of its last frames."""
        part = self._parts[number]
        part.receive()
        ring = self._copy(part.ring)  # the argument is donated, and this step has yet to be played
        last, _ = self._sample(params, normalizer, number, ring)
        rows = part.take_steps()
        return rows | {"value": np.concatenate([rows["value"], last.value[:, None]], axis=1)}

    def _sample(self, params: Any, normalizer: ValueNormalizer, number: int, ring: RingKVCache) -> tuple[Any, Any]:
        """Sample a part's next actions; returns the `ActionSample` of this host's environments, and the KV cache."""
        start_time, time_step, parts = time.monotonic(), self._parts[number].time_step, len(self._parts)
        observed = self._place((time_step.frames, time_step.first), batch=self._num_envs // parts)
        step, rows = np.int32(self._num_steps), (np.int32(number), np.int32(parts))
        action, ring = self._sample_actions(params, normalizer, ring, *observed, self._rng, step, rows)
        local = parallel.local_batch(action)
        self.acting_seconds += time.monotonic() - start_time
        return local, ring


def interleave(*parts: Shaped[np.ndarray, "n ..."]) -> Shaped[np.ndarray, "rows ..."]:
    """Rows of all environments from those of the parts; row `i` is from part `i % len(parts)`."""
    return parts[0] if len(parts) == 1 else np.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _transition(observed: TimeStep, action: ActionSample, outcome: TimeStep) -> dict[str, Any]:
    """The fields of a `Rollout` for one step, with leaves `[b, ...]`."""
    return dict(
        frames=observed.frames, first=observed.first, valid=observed.playing & outcome.acted, action=action.action,
        log_prob=action.log_prob, value=action.value, reward=outcome.reward, terminated=outcome.terminated,
        truncated=outcome.truncated,
    )  # fmt: skip
