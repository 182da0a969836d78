"""The arithmetic of phasic policy gradient: advantages, and what its two phases minimise (paper, appendix G).

All functions are of streams `[b, t]`, which hold several episodes one after the other; steps that are not `valid` had
no outcome and count nowhere. Sources: PPO (arXiv 1707.06347), GAE (arXiv 1506.02438), PPG (arXiv 2009.04416).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, UInt8

from vpt_jax.actions import Array, JointAction
from vpt_jax.models.heads import ValueNormalizer, joint_entropy, joint_kl, joint_log_prob
from vpt_jax.models.kv_cache import Memory
from vpt_jax.models.policy import Policy
from vpt_jax.training.state import Metrics

Logits = dict[str, Float[Array, "b t classes"]]  # of `buttons` and `camera`

# Bound of log(policy / policy that acted): an unbounded ratio overflows to infinity, and infinity times an advantage of
# 0 is NaN. MineStudio caps it at 50, but exp(50) squared, as in a gradient's norm, overflows float32 again.
MAX_LOG_RATIO = 20.0


class Fragment(NamedTuple):
    """Steps that were played, some of every stream, and what is to be learnt of them."""

    frames: UInt8[Array, "b t h w 3"]
    first: Bool[Array, "b t"]
    valid: Bool[Array, "b t"]
    action: JointAction
    log_prob: Float[Array, "b t"]  # of the action, by the policy that took it
    advantage: Float[Array, "b t"]
    target: Float[Array, "b t"]  # of the value, in the rewards' own unit


class Coefficients(NamedTuple):
    """Weights of the losses (paper, table 6)."""

    clip: float = 0.2
    wake_value: float = 0.5  # of the main value's error in the wake
    value: float = 0.5  # the same in the sleep
    aux_value: float = 0.5
    clone: float = 1.0  # of the KL to the policy before the sleep
    entropy: float = 0.0


def advantages(
    reward: Float[Array, "b t"],
    value: Float[Array, "b t+1"],
    valid: Bool[Array, "b t"],
    terminated: Bool[Array, "b t"],
    discount: float,
    decay: float,
) -> Float[Array, "b t"]:
    """Generalised advantage estimates (GAE), with `value` one step further than the rewards.

    The step after an episode's last is not valid and shows its last picture. Where the episode `terminated`, nothing
    follows; where it was cut, that picture's value stands for what would have (bootstrapping). Which ends count as
    which is up to the caller: `learner.prepare`.
    """
    goes_on = 1.0 - terminated
    surprise = reward + discount * goes_on * value[:, 1:] - value[:, :-1]

    def back(later: Float[Array, " b"], step: Any) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        surprise, goes_on, valid = step
        advantage = valid * (surprise + discount * decay * goes_on * later)
        return advantage, advantage

    by_time = [array.T for array in (surprise, goes_on, valid)]
    return jax.lax.scan(back, jnp.zeros(len(reward)), by_time, reverse=True)[1].T


def clipped_loss(log_ratio: Float[Array, "..."], advantage: Float[Array, "..."], clip: float) -> Float[Array, "..."]:
    """PPO's loss of every step: no gain from a ratio that is further from 1 than `clip`; finite for any ratio."""
    ratio = jnp.exp(bounded(log_ratio))
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def bounded(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """The log-ratio, at most `MAX_LOG_RATIO` from 0; without a gradient beyond."""
    return jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def explained_variance(
    value: Float[Array, "b t"], target: Float[Array, "b t"], valid: Bool[Array, "b t"]
) -> Float[Array, ""]:
    """1 - Var(target - value) / Var(target) over valid steps: 1 is a perfect critic, 0 one that predicts a constant.

    0 where all targets are equal: there is nothing to explain.
    """

    def variance(of_steps: Float[Array, "b t"]) -> Float[Array, ""]:
        return mean((of_steps - mean(of_steps, valid)) ** 2, valid)

    of_target = variance(target)
    return jnp.where(of_target > 0, 1 - variance(target - value) / jnp.maximum(of_target, 1e-12), 0.0)


def mean(of_steps: Float[Array, "b t"], valid: Bool[Array, "b t"]) -> Float[Array, ""]:
    """The mean over valid steps."""
    return jnp.where(valid, of_steps, 0).sum() / jnp.maximum(valid.sum(), 1)


def wake_loss(
    policy: Policy,
    weights: Coefficients,
    params: Any,
    memory: Memory,
    fragment: Fragment,
    pretrained: Logits | None,
    normalizer: ValueNormalizer,
    leash: Float[Array, ""],
) -> tuple[Float[Array, ""], Metrics]:
    """PPO's loss, the main value's error, and `leash` times KL(pretrained, policy) in place of an entropy bonus.

    `memory` is that at the fragment's start; `pretrained` are the other policy's logits, None where there is none.
    """
    output = policy.apply({"params": params}, fragment.frames, fragment.first, memory)
    log_ratio = bounded(joint_log_prob(output.logits, fragment.action) - fragment.log_prob)
    steps = {
        "policy_loss": clipped_loss(log_ratio, fragment.advantage, weights.clip),
        "value_loss": (output.value - _normalized(normalizer, fragment.target)) ** 2,
        "entropy": joint_entropy(output.logits),
        "clipped": 1.0 * (jnp.abs(jnp.exp(log_ratio) - 1) > weights.clip),
        "kl_acting": jnp.exp(log_ratio) - 1 - log_ratio,  # an estimate of KL(policy that acted, policy)
    }
    if pretrained is not None:
        steps["kl_pretrained"] = joint_kl(pretrained, output.logits)
    means = {name: mean(of_steps, fragment.valid) for name, of_steps in steps.items()}
    loss = (
        means["policy_loss"]
        + weights.wake_value * means["value_loss"]
        + leash * means.get("kl_pretrained", 0.0)
        - weights.entropy * means["entropy"]
    )
    return loss, means


def sleep_loss(
    policy: Policy,
    weights: Coefficients,
    params: Any,
    memory: Memory,
    fragment: Fragment,
    before: Logits,
    normalizer: ValueNormalizer,
) -> tuple[Float[Array, ""], Metrics]:
    """The errors of both values, and KL(policy before the sleep, policy), so that it goes on acting as it did.

    `memory` is that at the fragment's start; `before` are the logits of the policy before the sleep.
    """
    output = policy.apply({"params": params}, fragment.frames, fragment.first, memory)
    target = _normalized(normalizer, fragment.target)
    steps = {
        "value_loss": (output.value - target) ** 2,
        "aux_value_loss": (output.aux_value - target) ** 2,
        "kl": joint_kl(before, output.logits),
    }
    means = {name: mean(of_steps, fragment.valid) for name, of_steps in steps.items()}
    value, aux_value, kl = means.values()
    return weights.value * value + weights.aux_value * aux_value + weights.clone * kl, means


def _normalized(normalizer: ValueNormalizer, target: Float[Array, "b t"]) -> Float[Array, "b t"]:
    return normalizer.normalize(target[..., None])[..., 0]
