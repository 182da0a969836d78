"""Behavioural cloning: the policy learns to say what the player did (paper, equation 1)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vpt_jax.actions import joint_from_raw
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation import Marginal
from vpt_jax.models.heads import joint_log_prob
from vpt_jax.models.policy import Policy
from vpt_jax.models.transformer import Memory
from vpt_jax.training.state import Metrics


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


def start_at_marginal(params: Any, marginal: Marginal, temperature: float) -> Any:
    """The parameters, with the action heads' biases such that each class starts near its share of the actions.

    Our choice; the paper is silent, and OpenAI's heads start with no bias. From there, a small policy's first few
    hundred steps go into learning the frequencies by way of its features, which at learning rates above 1e-4 end up the
    same for every frame and stay so. From here, the first thing to learn is what the frames tell.
    """
    shares = marginal._asdict()
    heads = {
        name: head | {"bias": temperature * jnp.log(jnp.asarray(shares[name], jnp.float32))}
        for name, head in params["actions"].items()
    }
    return params | {"actions": heads}
