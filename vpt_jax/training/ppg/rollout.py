"""Playing with a policy: one action for every game at a time, and the rollouts that are learnt from."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

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
    rng: jax.Array,
) -> tuple[Acted, Ring]:
    """Actions drawn from the policy."""
    output = look_once(policy, params, frames, first, ring)
    action = draw_joint(rng, output.logits)
    buttons, camera = raw_from_joint(action)
    value = normalizer.denormalize(output.value[:, None])[:, 0]
    return Acted(action, buttons, camera, joint_log_prob(output.logits, action), value), output.memory


class Player:
    """Plays the games of a pool with a policy, from rollout to rollout."""

    def __init__(self, policy: Policy, pool: Games, rows: int, rng: jax.Array):
        """`rng`: a turn's randomness is that of its number, counted from the first."""
        self._pool, self._rng, self._turns = pool, rng, 0
        self._act = jax.jit(partial(act, policy), donate_argnums=2)
        self._ring = jax.jit(policy.initial_ring, static_argnums=0)(rows)
        self._turn = pool.begin()

    def play(self, params: Any, normalizer: ValueNormalizer, turns: int) -> Rollout:
        """The next turns of all games."""
        memory, steps = in_order(self._ring), []
        for _ in range(turns):
            shown, acted = self._turn, self._step(params, normalizer)
            steps.append(_record(shown, acted, self._turn))
        ring = jax.tree.map(jnp.copy, self._ring)  # is given away, and the turn has yet to be played
        last, _ = self._act(params, normalizer, ring, self._turn.frames, self._turn.first, self._rng)
        by_time = jax.tree.map(lambda *of_steps: np.stack(of_steps, axis=1), *steps)
        value = np.concatenate([by_time.pop("value"), np.asarray(last.value)[:, None]], axis=1)
        return Rollout(**by_time, value=value, memory=memory)

    def _step(self, params: Any, normalizer: ValueNormalizer) -> Acted:
        """One turn of all games."""
        rng = jax.random.fold_in(self._rng, self._turns)
        acted, self._ring = self._act(params, normalizer, self._ring, self._turn.frames, self._turn.first, rng)
        acted = jax.device_get(acted)
        self._turn, self._turns = self._pool.act(acted.buttons, acted.camera), self._turns + 1
        return acted


def _record(shown: Turn, acted: Acted, after: Turn) -> dict[str, Any]:
    return dict(
        frames=shown.frames, first=shown.first, valid=shown.playing & after.acted, action=acted.action,
        log_prob=acted.log_prob, value=acted.value, reward=after.reward, terminated=after.terminated,
    )  # fmt: skip
