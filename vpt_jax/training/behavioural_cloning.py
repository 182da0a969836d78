"""Behavioral cloning (BC): the policy learns to predict the player's recorded actions (paper, equation 1)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.baselines import FactoredMarginal, Marginal
from vpt_jax.evaluation.metrics import Prediction, action_measures
from vpt_jax.models.kv_cache import KVCache
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.training.objective import Objective, start_at_marginal
from vpt_jax.training.state import Metrics


def cloning(policy: Policy, frame_shape: tuple[int, ...], marginal: Marginal | FactoredMarginal | None) -> Objective:
    """Behavioural cloning objective: predict the player's next action from the frames up to now.

    Parameters are initialized as in the reference code; with a `marginal`, the action heads' biases are set so that the
    model starts at that distribution.
    """
    return Objective(
        partial(_init, policy, frame_shape, marginal),
        policy.initial_memory,
        partial(cloning_loss, policy),
        partial(predict_next, policy),
        action_measures(policy.space, ["valid"]),
    )


def _init(
    policy: Policy, frame_shape: tuple[int, ...], marginal: Marginal | FactoredMarginal | None, rng: jax.Array
) -> Any:
    params = init_params(policy, frame_shape, rng)
    return start_at_marginal(params, marginal._asdict(), policy.temperature) if marginal is not None else params


def cloning_loss(
    policy: Policy, params: Any, memory: KVCache, batch: Batch, rng: jax.Array
) -> tuple[Float[Array, ""], tuple[Metrics, KVCache]]:
    """Mean negative log-probability (nats) of the recorded actions over the valid frames."""
    text = None if batch.text is None else drop_text(jnp.asarray(batch.text), policy.text_dropout, rng)
    output = policy.apply({"params": params}, batch.frames, batch.first, memory, text)
    actions = policy.distribution.encode(batch.buttons, batch.camera)
    log_prob = policy.distribution.log_prob(output.logits, actions)
    frames = batch.valid.sum()
    loss = -jnp.where(batch.valid, log_prob, 0).sum() / jnp.maximum(frames, 1)
    return loss, ({"valid_frames": frames}, output.memory)


def drop_text(text: Float[Array, "b t e"], rate: float, rng: jax.Array) -> Float[Array, "b t e"]:
    """Text of a share of `1 - rate` of the rows, and none in the others: the policy also learns to act without it."""
    kept = jax.random.bernoulli(rng, 1 - rate, (len(text), 1, 1))
    return jnp.where(kept, text, 0)


def predict_next(policy: Policy, params: Any, memory: KVCache, batch: Batch) -> tuple[Prediction, KVCache]:
    """Most probable action of every frame, the loss of the recorded one, and the memory after the batch."""
    output = policy.apply({"params": params}, batch.frames, batch.first, memory, batch.text)
    distribution = policy.distribution
    loss = -distribution.log_prob(output.logits, distribution.encode(batch.buttons, batch.camera))
    return Prediction(loss, *distribution.decode(distribution.argmax(output.logits))), output.memory
