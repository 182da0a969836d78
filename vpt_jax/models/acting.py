"""Acting: the sampled actions of a policy, with their log-probabilities and value estimates."""

from typing import NamedTuple

from jaxtyping import Array, Float, UInt8

from vpt_jax.actions.joint import JointAction, raw_from_joint
from vpt_jax.actions.minerl import MINERL
from vpt_jax.models.heads import ValueNormalizer, joint_log_prob
from vpt_jax.models.kv_cache import AnyCache
from vpt_jax.models.policy import PolicyOutput


class ActionSample(NamedTuple):
    """Sampled actions of `n` environments, with log-probabilities and value estimates."""

    action: JointAction
    buttons: UInt8[Array, "n 20"]
    camera: Float[Array, "n 2"]  # degrees: pitch, yaw
    log_prob: Float[Array, " n"]  # of the action under the policy itself, without a temperature
    value: Float[Array, " n"]  # estimated return, in units of reward; meaningful after reinforcement learning


def describe_actions(output: PolicyOutput[AnyCache], normalizer: ValueNormalizer, action: JointAction) -> ActionSample:
    """Returns joint actions with their raw form, log-probabilities and values, from a policy's single-step output."""
    buttons, camera = raw_from_joint(MINERL, action)
    value = normalizer.denormalize(output.value[:, None])[:, 0]
    return ActionSample(action, buttons, camera, joint_log_prob(output.logits, action), value)
