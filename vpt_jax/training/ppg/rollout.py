"""Playing with a policy: one action for every game at a time, and the rollouts that are learnt from."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, UInt8, UInt32

from vpt_jax import parallel
from vpt_jax.actions import JointAction, raw_from_joint
from vpt_jax.envs.pool import Games, Turn
from vpt_jax.models.heads import ValueNormalizer, draw_joint, joint_log_prob
from vpt_jax.models.memory import Ring, in_order
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


class Player:
    """Plays with a policy on a mesh, from rollout to rollout: `games` in all, those of the pool on this host."""

    def __init__(self, policy: Policy, pool: Games, mesh: Mesh, games: int, rng: UInt32[Array, "2"]):
        by_rows: Any = parallel.batch_sharding(mesh)
        by_all: Any = NamedSharding(mesh, PartitionSpec())
        ring = Ring(by_rows, by_rows, by_rows, by_all)
        self._place = partial(parallel.global_batch, mesh=mesh, batch=games)
        self._act = jax.jit(partial(act, policy), donate_argnums=2, out_shardings=(by_rows, ring))
        self._in_order = jax.jit(in_order, out_shardings=by_rows)
        self._copy = jax.jit(partial(jax.tree.map, jnp.copy), out_shardings=ring)
        self._ring = jax.jit(policy.initial_ring, static_argnums=0, out_shardings=ring)(games)
        self._pool, self._rng, self._turns = pool, jax.device_get(rng), 0
        self._turn = pool.begin()

    def play(
        self, params: Any, normalizer: ValueNormalizer, turns: int, stop: Callable[[], bool] = lambda: False
    ) -> Rollout | None:
        """The next turns of all games; none, if it is to `stop` before they are whole."""
        memory, steps = self._in_order(self._ring), []
        for _ in range(turns):
            shown, acted = self._turn, self._step(params, normalizer)
            steps.append(_record(shown, acted, self._turn))
            if stop():
                return None
        ring = self._copy(self._ring)  # is given away, and the turn has yet to be played
        last, _ = self._ask(params, normalizer, ring)
        by_time = jax.tree.map(lambda *of_steps: np.stack(of_steps, axis=1), *steps)
        value = np.concatenate([by_time.pop("value"), last.value[:, None]], axis=1)
        return Rollout(**self._place(by_time | {"value": value}), memory=memory)

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
    )  # fmt: skip
