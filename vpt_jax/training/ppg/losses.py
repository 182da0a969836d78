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
from vpt_jax.models.memory import Memory
from vpt_jax.models.policy import Policy, PolicyOutput
from vpt_jax.training.state import Metrics


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
    value: float = 0.5
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
    """Generalised advantage estimates, with `value` one step further than the rewards.

    The step after an episode's last is not valid and shows its last picture. Where the episode `terminated`, nothing
    follows; where it was cut, by time or because the game was lost, that picture's value stands for what would have.
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
    """PPO's loss of every step: no gain from a ratio that is further from 1 than `clip`."""
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def mean(of_steps: Float[Array, "b t"], valid: Bool[Array, "b t"]) -> Float[Array, ""]:
    """The mean over valid steps."""
    return jnp.where(valid, of_steps, 0).sum() / jnp.maximum(valid.sum(), 1)


def wake_loss(
    policy: Policy,
    weights: Coefficients,
    params: Any,
    memory: Memory,
    fragment: Fragment,
    pretrained: PolicyOutput,
    normalizer: ValueNormalizer,
    leash: Float[Array, ""],
) -> tuple[Float[Array, ""], tuple[Metrics, Memory]]:
    """PPO's loss, the main value's error, and `leash` times KL(pretrained, policy) in place of an entropy bonus."""
    output = policy.apply({"params": params}, fragment.frames, fragment.first, memory)
    log_ratio = joint_log_prob(output.logits, fragment.action) - fragment.log_prob
    steps = {
        "policy_loss": clipped_loss(log_ratio, fragment.advantage, weights.clip),
        "value_loss": (output.value - _normalized(normalizer, fragment.target)) ** 2,
        "kl_pretrained": joint_kl(pretrained.logits, output.logits),
        "entropy": joint_entropy(output.logits),
        "clipped": 1.0 * (jnp.abs(jnp.exp(log_ratio) - 1) > weights.clip),
        "kl_acting": jnp.exp(log_ratio) - 1 - log_ratio,  # an estimate of KL(policy that acted, policy)
    }
    means = {name: mean(of_steps, fragment.valid) for name, of_steps in steps.items()}
    loss = (
        means["policy_loss"]
        + weights.value * means["value_loss"]
        + leash * means["kl_pretrained"]
        - weights.entropy * means["entropy"]
    )
    return loss, (means, output.memory)


def sleep_loss(
    policy: Policy,
    weights: Coefficients,
    params: Any,
    memory: Memory,
    fragment: Fragment,
    before: PolicyOutput,
    normalizer: ValueNormalizer,
) -> tuple[Float[Array, ""], tuple[Metrics, Memory]]:
    """The errors of both values, and KL(policy before the sleep, policy), so that it goes on acting as it did."""
    output = policy.apply({"params": params}, fragment.frames, fragment.first, memory)
    target = _normalized(normalizer, fragment.target)
    steps = {
        "value_loss": (output.value - target) ** 2,
        "aux_value_loss": (output.aux_value - target) ** 2,
        "kl": joint_kl(before.logits, output.logits),
    }
    means = {name: mean(of_steps, fragment.valid) for name, of_steps in steps.items()}
    value, aux_value, kl = means.values()
    return weights.value * value + weights.aux_value * aux_value + weights.clone * kl, (means, output.memory)


def _normalized(normalizer: ValueNormalizer, target: Float[Array, "b t"]) -> Float[Array, "b t"]:
    return normalizer.normalize(target[..., None])[..., 0]
