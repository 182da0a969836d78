"""Latent actions: a model learns codes of frame pairs by predicting the next frame, without labels (LAPA's stage 1).

The loss is a sum of three terms:

- The squared error of the predicted next frame, as a share of that of copying the last frame: 1 is no better than that,
  whatever the game and its contrast.
- `commitment_weight` times the distance of vectors and codebook, for both (VQ-VAE's second and third term).
- `entropy_weight` times how much the codes' entropy is below its maximum, against codebook collapse, in which few codes
  are used: the entropy is that of the batch's mean soft choice, so that its gradient moves unused codes as well.
  The perplexity of the codes, logged and measured, shows whether it was enough. LAPA and Genie replace unused codes
  instead, which is a state beside the parameters; this is a term of the loss.

The first and the third are no means over frames but of a whole batch, and with `grad_accum_steps` of each microbatch.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int, Num, UInt8

from vpt_jax.actions.quantizer import Array
from vpt_jax.data.augment import mirror_frames
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.metrics import Measure
from vpt_jax.models.impala import scale_frames
from vpt_jax.models.latent_actions import LatentActionModel, LatentActions
from vpt_jax.training.objective import Objective
from vpt_jax.training.state import Metrics

SOFTNESS = 0.2  # temperature of the soft choice: cosines that differ by this much differ in probability by the factor e
_LEAST = 1e-6  # lower limit of the sum of squared errors of copying, which is 0 if no frame changes


def latent_actions(
    model: LatentActionModel,
    frame_shape: tuple[int, ...],
    marginal: None,
    mirrored: bool,
    commitment_weight: float,
    entropy_weight: float,
) -> Objective:
    """Objective of latent actions; it uses the batch's frames alone. `mirrored` flips half of the training windows."""
    del marginal  # no action heads
    return Objective(
        lambda rng: model.init(rng, jnp.zeros((1, 2, *frame_shape), jnp.uint8))["params"],
        lambda rows: (),
        partial(latent_action_loss, model, mirrored, commitment_weight, entropy_weight),
        partial(predict_next_frames, model),
        frame_measures(model),
    )


def latent_action_loss(
    model: LatentActionModel,
    mirrored: bool,
    commitment_weight: float,
    entropy_weight: float,
    params: Any,
    memory: tuple[()],
    batch: Batch,
    rng: jax.Array,
) -> tuple[Float[Array, ""], tuple[Metrics, tuple[()]]]:
    """Loss of the module's description, over the pairs of valid frames."""
    frames = jnp.asarray(batch.frames)
    if mirrored:
        frames = mirror_frames(rng, frames)
    output, pairs = model.apply({"params": params}, frames), valid_pairs(batch)
    error, copy_error = (jnp.where(pairs, errors, 0).sum() for errors in _squared_errors(frames, output.next_frames))
    reconstruction = error / jnp.maximum(copy_error, _LEAST)
    commitment = _mean(_commitment(output.actions), pairs)
    entropy_gap = jnp.log(model.codes) - _soft_entropy(output.actions, pairs)
    loss = reconstruction + commitment_weight * commitment + entropy_weight * entropy_gap
    counts = _count_codes(output.actions, pairs)
    metrics = {"valid_frames": pairs.sum(), "relative_error": reconstruction, "perplexity": perplexity(counts).mean()}
    return loss, (metrics, memory)


def valid_pairs(batch: Batch) -> Bool[Array, "b t"]:
    """Frames that are valid and have a valid next frame of the same episode."""
    valid, first = jnp.asarray(batch.valid), jnp.asarray(batch.first)
    return jnp.pad(valid[:, :-1] & valid[:, 1:] & ~first[:, 1:], [(0, 0), (0, 1)])


def _mean(values: Float[Array, "b t"], counted: Bool[Array, "b t"]) -> Float[Array, ""]:
    return jnp.where(counted, values, 0).sum() / jnp.maximum(counted.sum(), 1)


def _squared_errors(
    frames: UInt8[Array, "b t h w 3"], next_frames: Float[Array, "b t h w 3"]
) -> tuple[Float[Array, "b t"], Float[Array, "b t"]]:
    """Squared error per pixel and colour of the predicted next frames, and of the frames themselves (copying)."""
    images = scale_frames(frames, jnp.float32)
    true = jnp.concatenate([images[:, 1:], images[:, -1:]], axis=1)
    return ((next_frames - true) ** 2).mean((2, 3, 4)), ((images - true) ** 2).mean((2, 3, 4))


def _commitment(actions: LatentActions) -> Float[Array, "b t"]:
    """Squared distance of vectors and codebook, mean over tokens, once for the gradient of each."""
    fixed = jax.lax.stop_gradient(actions)
    return _squared_distance(actions.vectors, fixed.quantized) + _squared_distance(fixed.vectors, actions.quantized)


def _squared_distance(one: Float[Array, "b t tokens f"], other: Float[Array, "b t tokens f"]) -> Float[Array, "b t"]:
    return ((one - other) ** 2).sum(-1).mean(-1)


def _soft_entropy(actions: LatentActions, counted: Bool[Array, "b t"]) -> Float[Array, ""]:
    """Entropy in nats of the mean soft choice of codes, mean over tokens."""
    choice = jax.nn.softmax(actions.similarities / SOFTNESS)
    mean = jnp.where(counted[..., None, None], choice, 0).sum((0, 1)) / jnp.maximum(counted.sum(), 1)
    return -(mean * jnp.log(mean + 1e-9)).sum(-1).mean()


def _count_codes(actions: LatentActions, counted: Bool[Array, "b t"]) -> Int[Array, "tokens codes"]:
    chosen = jax.nn.one_hot(actions.codes, actions.similarities.shape[-1], dtype=jnp.int32)
    return jnp.where(counted[..., None, None], chosen, 0).sum((0, 1))


def perplexity(counts: Num[Array, "tokens codes"]) -> Float[Array, " tokens"]:
    """Perplexity of each token's codes: the number of codes, if all were used alike; 1: the codebook has collapsed."""
    shares = jnp.asarray(counts) / jnp.maximum(jnp.asarray(counts).sum(-1, keepdims=True), 1)
    return jnp.exp(-(shares * jnp.log(jnp.where(shares > 0, shares, 1))).sum(-1))


class FramePrediction(NamedTuple):
    """Predicted next frames with their errors, and codes."""

    error: Float[Array, "b t"]  # squared, per pixel and colour, of pixels from 0 to 1
    copy_error: Float[Array, "b t"]  # the same of copying the last frame
    actions: LatentActions


def predict_next_frames(
    model: LatentActionModel, params: Any, memory: tuple[()], batch: Batch
) -> tuple[FramePrediction, tuple[()]]:
    """Errors of the predicted next frames, and the codes; the memory is empty."""
    output = model.apply({"params": params}, batch.frames)
    return FramePrediction(*_squared_errors(batch.frames, output.next_frames), output.actions), memory


class FrameTotals(NamedTuple):
    """Sums over frame pairs."""

    error: Float[Array, ""]
    copy_error: Float[Array, ""]
    codes: Int[Array, "tokens codes"]  # how often each was chosen


def frame_measures(model: LatentActionModel) -> dict[str, Measure]:
    """Metrics of latent actions on held-out play, without labels.

    - `mse`: squared error of the next frame, per pixel and colour, of pixels from 0 to 1; `copy_mse`: of the trivial
      baseline, which copies the last frame; `relative_error`: their ratio, below 1 if the codes help.
    - `perplexity`: of the codes, mean over tokens; `pairs`: number of pairs.
    """
    empty = jnp.zeros(()), jnp.zeros(()), jnp.zeros((model.tokens, model.codes), jnp.int32)
    return {"valid": Measure(lambda: FrameTotals(*empty), _frame_totals, _frame_metrics)}


def _frame_totals(prediction: FramePrediction, batch: Batch) -> FrameTotals:
    pairs = valid_pairs(batch)
    error, copy_error = (jnp.where(pairs, each, 0).sum() for each in (prediction.error, prediction.copy_error))
    return FrameTotals(error, copy_error, _count_codes(prediction.actions, pairs))


def _frame_metrics(totals: FrameTotals) -> dict[str, float]:
    pairs = int(totals.codes[0].sum())
    return {
        "mse": float(totals.error / pairs),
        "copy_mse": float(totals.copy_error / pairs),
        "relative_error": float(totals.error / max(totals.copy_error, _LEAST)),
        "perplexity": float(perplexity(totals.codes).mean()),
        "pairs": pairs,
    }
