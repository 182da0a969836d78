"""Inverse dynamics: the model learns to predict actions from the frames before and after (paper, appendix D)."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vpt_jax.data.augment import augment, mirror
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.baselines import FactoredMarginal
from vpt_jax.evaluation.metrics import Prediction, action_measures
from vpt_jax.models.factored_head import FactoredDistribution
from vpt_jax.models.idm import InverseDynamicsModel, temporal_difference_init
from vpt_jax.training.objective import Objective, start_at_marginal
from vpt_jax.training.state import Metrics


def inverse_dynamics(
    idm: InverseDynamicsModel,
    frame_shape: tuple[int, ...],
    marginal: FactoredMarginal | None,
    augmented: bool,
    mirrored: bool,
    temporal_difference: bool = False,
) -> Objective:
    """Inverse dynamics objective: predict the action of every frame of a window.

    Parameters are initialized as in the reference code, with two exceptions: with a `marginal`, the action heads'
    biases are set so that the model starts at that distribution; with `temporal_difference`, its temporal filters start
    as `temporal_difference_init`. `augmented` and `mirrored` turn on augmentation of the training frames.
    """
    return Objective(
        partial(_init, idm, frame_shape, marginal, temporal_difference),
        lambda rows: (),
        partial(inverse_dynamics_loss, idm, augmented, mirrored),
        partial(predict_window, idm),
        action_measures(idm.space, ["valid", "acting"]),
    )


def _init(
    idm: InverseDynamicsModel,
    frame_shape: tuple[int, ...],
    marginal: FactoredMarginal | None,
    temporal_difference: bool,
    rng: jax.Array,
) -> Any:
    params = idm.init(rng, jnp.zeros((1, 1, *frame_shape), jnp.uint8))["params"]
    if temporal_difference and idm.temporal_convolution:
        conv = params["temporal"]["conv"]
        filters = temporal_difference_init(jax.random.fold_in(rng, 1), conv["kernel"].shape)
        params = params | {"temporal": {"conv": conv | {"kernel": filters}}}
    return start_at_marginal(params, marginal._asdict(), idm.temperature) if marginal is not None else params


def inverse_dynamics_loss(
    idm: InverseDynamicsModel,
    augmented: bool,
    mirrored: bool,
    params: Any,
    memory: tuple[()],
    batch: Batch,
    rng: jax.Array,
) -> tuple[Float[Array, ""], tuple[Metrics, tuple[()]]]:
    """Mean negative log-probability (nats) of the recorded actions over the valid frames, summed over keys and axes."""
    if augmented:
        batch = batch._replace(frames=augment(rng, batch.frames))
    if mirrored:
        batch = mirror(jax.random.fold_in(rng, 1), batch, idm.space)
    loss = _losses(idm, idm.apply({"params": params}, batch.frames, batch.valid).logits, batch)
    count = batch.valid.sum()
    return jnp.where(batch.valid, loss, 0).sum() / jnp.maximum(count, 1), ({"valid_frames": count}, memory)


def predict_window(
    idm: InverseDynamicsModel, params: Any, memory: tuple[()], batch: Batch
) -> tuple[Prediction, tuple[()]]:
    """Most probable action of every frame, and the loss of the recorded one; the memory is empty."""
    logits = idm.apply({"params": params}, batch.frames, batch.valid).logits
    distribution = FactoredDistribution(idm.space)
    predicted = distribution.decode(distribution.argmax(logits))
    return Prediction(_losses(idm, logits, batch), *predicted), memory


def _losses(
    idm: InverseDynamicsModel, logits: dict[str, Float[Array, "b t choices classes"]], batch: Batch
) -> Float[Array, "b t"]:
    distribution = FactoredDistribution(idm.space)
    return -distribution.log_prob(logits, distribution.encode(batch.buttons, batch.camera))
