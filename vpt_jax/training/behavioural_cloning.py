"""Behavioural cloning: the policy learns to say what the player did (paper, equation 1)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vpt_jax.actions import joint_from_raw, raw_from_joint
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.baselines import Marginal
from vpt_jax.evaluation.metrics import Prediction
from vpt_jax.models.heads import joint_log_prob, most_probable
from vpt_jax.models.kv_cache import Memory
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.training.objective import Objective, start_at_marginal
from vpt_jax.training.state import Metrics


def cloning(policy: Policy, frame_shape: tuple[int, ...], marginal: Marginal | None) -> Objective:
    """To say what the player does next, from the frames up to now.

    Initial parameters are the reference's, but that the model starts at the marginal distribution if there is one.
    """
    return Objective(
        partial(_init, policy, frame_shape, marginal),
        policy.initial_memory,
        partial(cloning_loss, policy),
        partial(predict_next, policy),
    )


def _init(policy: Policy, frame_shape: tuple[int, ...], marginal: Marginal | None, rng: jax.Array) -> Any:
    params = init_params(policy, frame_shape, rng)
    return start_at_marginal(params, marginal._asdict(), policy.temperature) if marginal is not None else params


def cloning_loss(
    policy: Policy, params: Any, memory: Memory, batch: Batch, rng: jax.Array
) -> tuple[Float[Array, ""], tuple[Metrics, Memory]]:
    """Mean negative log-probability (nats) of the recorded joint actions over the valid frames."""
    del rng  # no augmentation and no dropout
    output = policy.apply({"params": params}, batch.frames, batch.first, memory)
    log_prob = joint_log_prob(output.logits, joint_from_raw(batch.buttons, batch.camera))
    frames = batch.valid.sum()
    loss = -jnp.where(batch.valid, log_prob, 0).sum() / jnp.maximum(frames, 1)
    return loss, ({"valid_frames": frames}, output.memory)


def predict_next(policy: Policy, params: Any, memory: Memory, batch: Batch) -> tuple[Prediction, Memory]:
    """The most probable action of every frame, the loss of the recorded one, and the memory after the batch."""
    output = policy.apply({"params": params}, batch.frames, batch.first, memory)
    loss = -joint_log_prob(output.logits, joint_from_raw(batch.buttons, batch.camera))
    return Prediction(loss, *raw_from_joint(most_probable(output.logits))), output.memory
