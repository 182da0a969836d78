"""Playing with a policy: one action for every game at a time, and the rollouts that are learnt from."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from vpt_jax import parallel
from vpt_jax.actions import JointAction, raw_from_joint
from vpt_jax.envs.vector.pool import Games, Turn
from vpt_jax.models.heads import ValueNormalizer, draw_joint, joint_log_prob
from vpt_jax.models.kv_cache import Memory, Ring, in_order
from vpt_jax.models.policy import Policy, look_once
from vpt_jax.training.ppg.learner import Rollout


class Acted(NamedTuple):
    """What a policy does in `b` games, and thinks of it."""

    action: JointAction
    buttons: UInt8[Array, "b 20"]
    camera: Float[Array, "b 2"]  # degrees
    log_prob: Float[Array, " b"]
    value: Float[Array, " b"]  # in the rewards' own unit


def act(
    policy: Policy,
    params: Any,
    normalizer: ValueNormalizer,
    ring: Ring,
    frames: UInt8[Array, "b h w 3"],
    first: Bool[Array, " b"],
    rng: UInt32[Array, "2"],
    turn: int,
) -> tuple[Acted, Ring]:
    """Actions drawn from the policy; a turn's randomness is that of its number."""
    output = look_once(policy, params, frames, first, ring)
    action = draw_joint(jax.random.fold_in(rng, turn), output.logits)
    buttons, camera = raw_from_joint(action)
    value = normalizer.denormalize(output.value[:, None])[:, 0]
    return Acted(action, buttons, camera, joint_log_prob(output.logits, action), value), output.memory


def empty_memories(policy: Policy, rows: int, segments: int) -> Memory:
    """Room for the memories of all games before each segment of a rollout: leaves `[rows, segments, ...]`."""
    memory = policy.initial_memory(rows)
    return jax.tree.map(lambda leaf: jnp.zeros((rows, segments, *leaf.shape[1:]), leaf.dtype), memory)


def store_memory(memories: Memory, ring: Ring, segment: Int[Array, ""]) -> Memory:
    """The same with that before a segment, in order."""
    return jax.tree.map(lambda of_all, now: of_all.at[:, segment].set(now), memories, in_order(ring))


class Player:
    """Plays with a policy on a mesh, from rollout to rollout: `games` in all, those of the pool on this host.

    `length` is that of a segment: before each, the policy's memory is stored in the rollout, for learning from it.
    """

    def __init__(self, policy: Policy, pool: Games, mesh: Mesh, games: int, length: int, rng: UInt32[Array, "2"]):
        by_rows: Any = parallel.batch_sharding(mesh)
        by_all: Any = NamedSharding(mesh, PartitionSpec())
        ring = Ring(by_rows, by_rows, by_rows, by_all)
        self._place = partial(parallel.global_batch, mesh=mesh, batch=games)
        self._act = jax.jit(partial(act, policy), donate_argnums=2, out_shardings=(by_rows, ring))
        self._empty = jax.jit(partial(empty_memories, policy, games), static_argnums=0, out_shardings=by_rows)
        self._store = jax.jit(store_memory, donate_argnums=0, out_shardings=by_rows)
        self._copy = jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=ring)
        self._ring = jax.jit(policy.initial_ring, static_argnums=0, out_shardings=ring)(games)
        self._pool, self._length, self._rng, self._turns = pool, length, jax.device_get(rng), 0
        self._turn = pool.begin()

    def play(
        self, params: Any, normalizer: ValueNormalizer, turns: int, stop: Callable[[], bool] = lambda: False
    ) -> Rollout | None:
        """The next turns of all games, whole segments; none, if it is to `stop` before they are whole."""
        memories, steps = self._empty(turns // self._length), []
        for turn in range(turns):
            if turn % self._length == 0:
                memories = self._store(memories, self._ring, np.int32(turn // self._length))
            shown, acted = self._turn, self._step(params, normalizer)
            steps.append(_record(shown, acted, self._turn))
            if stop():
                return None
        ring = self._copy(self._ring)  # is given away, and the turn has yet to be played
        last, _ = self._ask(params, normalizer, ring)
        by_time = jax.tree.map(lambda *of_steps: np.stack(of_steps, axis=1), *steps)
        value = np.concatenate([by_time.pop("value"), last.value[:, None]], axis=1)
        return Rollout(**self._place(by_time | {"value": value}), memory=memories)

    def _step(self, params: Any, normalizer: ValueNormalizer) -> Any:
        """One turn of all games, and what was done in those of this host."""
        acted, self._ring = self._ask(params, normalizer, self._ring)
        self._turn, self._turns = self._pool.act(acted.buttons, acted.camera), self._turns + 1
        return acted

    def _ask(self, params: Any, normalizer: ValueNormalizer, ring: Ring) -> tuple[Any, Ring]:
        """What the policy does next in the games of this host: `Acted` in its memory."""
        shown = self._place((self._turn.frames, self._turn.first))
        acted, ring = self._act(params, normalizer, ring, *shown, self._rng, np.int32(self._turns))
        return parallel.local_batch(acted), ring


def _record(shown: Turn, acted: Acted, after: Turn) -> dict[str, Any]:
    return dict(
        frames=shown.frames, first=shown.first, valid=shown.playing & after.acted, action=acted.action,
        log_prob=acted.log_prob, value=acted.value, reward=after.reward, terminated=after.terminated,
        truncated=after.truncated,
    )  # fmt: skip
