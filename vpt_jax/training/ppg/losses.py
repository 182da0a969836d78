"""Phasic policy gradient: generalized advantage estimation (GAE), and the losses of both phases (paper, appendix G).

All functions take streams `[b, t]`, which hold several episodes in succession; steps that are not `valid` had no
outcome and are masked everywhere. Sources: PPO (arXiv 1707.06347), GAE (arXiv 1506.02438), PPG (arXiv 2009.04416).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, UInt8

from vpt_jax.actions.quantizer import Array
from vpt_jax.models.heads import Action
from vpt_jax.models.kv_cache import KVCache
from vpt_jax.models.policy import Policy
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.training.state import Metrics

Logits = dict[str, Float[Array, "b t ..."]]  # of the action head, by name

# Bound of log(policy / policy that acted): an unbounded ratio overflows to infinity, and infinity times an advantage of
# 0 is NaN. MineStudio caps it at 50, but exp(50) squared, as in a gradient's norm, overflows float32 again.
MAX_LOG_RATIO = 20.0


class Segment(NamedTuple):
    """Segment of a rollout: `t` steps of each of `b` streams, with the advantages and value targets."""

    frames: UInt8[Array, "b t h w 3"]
    first: Bool[Array, "b t"]
    valid: Bool[Array, "b t"]
    action: Action  # in the head's form
    log_prob: Float[Array, "b t"]  # of the action, under the policy that took it
    advantage: Float[Array, "b t"]
    target: Float[Array, "b t"]  # of the value, in units of reward


class LossWeights(NamedTuple):
    """Weights of the losses (paper, table 6); the names are those of `config.ppg`."""

    clip_range: float = 0.2  # of the probability ratio (PPO)
    wake_value_coef: float = 0.5  # of the main value's squared error in the wake phase
    sleep_value_coef: float = 0.5  # the same in the sleep phase
    aux_value_coef: float = 0.5
    kl_old_policy_coef: float = 1.0  # of the KL to the policy before the sleep phase
    entropy_coef: float = 0.0


def compute_gae(
    reward: Float[Array, "b t"],
    value: Float[Array, "b t+1"],
    valid: Bool[Array, "b t"],
    terminated: Bool[Array, "b t"],
    discount: float,
    decay: float,
) -> Float[Array, "b t"]:
    """Generalized advantage estimation (GAE): discounted sums of TD errors; `value` has one step more than `reward`.

    The step after an episode's last is not valid and holds its last frame. Where the episode `terminated`, the return
    after it is 0; where it was cut, the value of that frame is used instead (bootstrapping). The caller decides which
    ends count as terminations: `learner.compute_targets`.
    """
    not_done = 1.0 - terminated
    td_error = reward + discount * not_done * value[:, 1:] - value[:, :-1]

    def accumulate(next_advantage: Float[Array, " b"], step: Any) -> tuple[Float[Array, " b"], Float[Array, " b"]]:
        td_error, not_done, valid = step
        advantage = valid * (td_error + discount * decay * not_done * next_advantage)
        return advantage, advantage

    time_major = [array.T for array in (td_error, not_done, valid)]
    return jax.lax.scan(accumulate, jnp.zeros(len(reward)), time_major, reverse=True)[1].T


def clipped_surrogate_loss(
    log_ratio: Float[Array, "..."], advantage: Float[Array, "..."], clip: float
) -> Float[Array, "..."]:
    """Clipped surrogate loss of PPO per step: no gain from a ratio further from 1 than `clip`; always finite."""
    ratio = jnp.exp(clip_log_ratio(log_ratio))
    return -jnp.minimum(ratio * advantage, jnp.clip(ratio, 1 - clip, 1 + clip) * advantage)


def clip_log_ratio(log_ratio: Float[Array, "..."]) -> Float[Array, "..."]:
    """Clips the log-ratio to `MAX_LOG_RATIO` from 0, with no gradient beyond."""
    return jnp.clip(log_ratio, -MAX_LOG_RATIO, MAX_LOG_RATIO)


def explained_variance(
    value: Float[Array, "b t"], target: Float[Array, "b t"], valid: Bool[Array, "b t"]
) -> Float[Array, ""]:
    """Explained variance, 1 - Var(target - value) / Var(target) over valid steps: 1: perfect critic, 0: constant.

    0 where all targets are equal: there is no variance to explain.
    """

    def variance(per_step: Float[Array, "b t"]) -> Float[Array, ""]:
        return masked_mean((per_step - masked_mean(per_step, valid)) ** 2, valid)

    target_variance = variance(target)
    return jnp.where(target_variance > 0, 1 - variance(target - value) / jnp.maximum(target_variance, 1e-12), 0.0)


def masked_mean(per_step: Float[Array, "b t"], valid: Bool[Array, "b t"]) -> Float[Array, ""]:
    """Mean over valid steps."""
    return jnp.where(valid, per_step, 0).sum() / jnp.maximum(valid.sum(), 1)


def wake_loss(
    policy: Policy,
    weights: LossWeights,
    params: Any,
    memory: KVCache,
    segment: Segment,
    pretrained_logits: Logits | None,
    normalizer: ValueNormalizer,
    kl_pretrained_coef: Float[Array, ""],
) -> tuple[Float[Array, ""], Metrics]:
    """Loss of the wake phase: PPO's loss, the main value's error, and a KL penalty instead of an entropy bonus.

    The penalty is `kl_pretrained_coef` times KL(pretrained, policy). `memory` is the KV cache at the segment's start;
    `pretrained_logits` are those of the pretrained policy, None if there is none.
    """
    output = policy.apply({"params": params}, segment.frames, segment.first, memory)
    log_ratio = clip_log_ratio(policy.distribution.log_prob(output.logits, segment.action) - segment.log_prob)
    stopped = jax.lax.stop_gradient(output.logits)  # a metric only: its gradient would cost, and be multiplied by 0
    terms = {
        "policy_loss": clipped_surrogate_loss(log_ratio, segment.advantage, weights.clip_range),
        "value_loss": (output.value - _normalized(normalizer, segment.target)) ** 2,
        "entropy": policy.distribution.entropy(output.logits if weights.entropy_coef else stopped),
        "clipped": 1.0 * (jnp.abs(jnp.exp(log_ratio) - 1) > weights.clip_range),
        "kl_acting": jnp.exp(log_ratio) - 1 - log_ratio,  # an estimate of KL(policy that acted, policy)
    }
    if pretrained_logits is not None:
        terms["kl_pretrained"] = policy.distribution.kl(pretrained_logits, output.logits)
    means = {name: masked_mean(per_step, segment.valid) for name, per_step in terms.items()}
    loss = (
        means["policy_loss"]
        + weights.wake_value_coef * means["value_loss"]
        + kl_pretrained_coef * means.get("kl_pretrained", 0.0)
        - weights.entropy_coef * means["entropy"]
    )
    return loss, means


def sleep_loss(
    policy: Policy,
    weights: LossWeights,
    params: Any,
    memory: KVCache,
    segment: Segment,
    old_logits: Logits,
    normalizer: ValueNormalizer,
) -> tuple[Float[Array, ""], Metrics]:
    """Loss of the sleep phase: errors of both values, and KL(old policy, policy), which preserves the behaviour.

    `memory` is the KV cache at the segment's start; `old_logits` are those of the policy before the sleep phase.
    """
    output = policy.apply({"params": params}, segment.frames, segment.first, memory)
    target = _normalized(normalizer, segment.target)
    terms = {
        "value_loss": (output.value - target) ** 2,
        "aux_value_loss": (output.aux_value - target) ** 2,
        "kl": policy.distribution.kl(old_logits, output.logits),
    }
    means = {name: masked_mean(per_step, segment.valid) for name, per_step in terms.items()}
    value, aux_value, kl = means.values()
    loss = weights.sleep_value_coef * value + weights.aux_value_coef * aux_value + weights.kl_old_policy_coef * kl
    return loss, means


def _normalized(normalizer: ValueNormalizer, target: Float[Array, "b t"]) -> Float[Array, "b t"]:
    return normalizer.normalize(target[..., None])[..., 0]
