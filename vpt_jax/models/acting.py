"""Acting: the sampled actions of a policy, with their log-probabilities and value estimates."""

from typing import NamedTuple

from jaxtyping import Array, Float, UInt8

from vpt_jax.models.heads import Action, ActionDistribution
from vpt_jax.models.kv_cache import AnyCache
from vpt_jax.models.policy import PolicyOutput
from vpt_jax.models.value_normalizer import ValueNormalizer


class ActionSample(NamedTuple):
    """Sampled actions of `n` environments, with log-probabilities and value estimates."""

    action: Action  # in the head's form
    buttons: UInt8[Array, "n keys"]
    camera: Float[Array, "n axes"]  # movement per step, in the axes' units
    log_prob: Float[Array, " n"]  # of the action under the policy itself, without a temperature
    value: Float[Array, " n"]  # estimated return, in units of reward; meaningful after reinforcement learning


def describe_actions(
    distribution: ActionDistribution, output: PolicyOutput[AnyCache], normalizer: ValueNormalizer, action: Action
) -> ActionSample:
    """Returns actions with their raw form, log-probabilities and values, from a policy's single-step output."""
    buttons, camera = distribution.decode(action)
    value = normalizer.denormalize(output.value[:, None])[:, 0]
    return ActionSample(action, buttons, camera, distribution.log_prob(output.logits, action), value)
