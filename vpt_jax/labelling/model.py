"""Pseudo-labels of spans of windows by the inverse dynamics model (IDM), with or without shared frame embeddings."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.quantizer import Array
from vpt_jax.actions.space import ActionSpace
from vpt_jax.labelling.plan import Labels, Spans
from vpt_jax.models.factored_head import FactoredDistribution, make_action
from vpt_jax.models.idm import TEMPORAL_RADIUS, InverseDynamicsModel
from vpt_jax.training.checkpoints import TrainedIDM
from vpt_jax.training.digests import params_digest

Logits = dict[str, Float[Array, "b t choices classes"]]

MODES = ("shared", "exact")
CHOICES = ("argmax", "sample", "mean")


def model_digest(idm: TrainedIDM) -> str:
    """Hash of a model's parameters, architecture, window and frame size; independent of the path of its files."""
    space = () if idm.module.space == MINERL else (idm.module.space,)  # the module's `repr` has no space
    return params_digest(idm.params, idm.module, tuple(idm.frame_shape), idm.window, *space)


def label_spans(
    idm: InverseDynamicsModel,
    window: int,
    mode: str,
    choice: str,
    params: Any,
    rng: jax.Array,
    spans: Spans,
    mirror: bool = False,
) -> Labels:
    """Predicts labels for all windows of some spans: `[b, windows, window, ...]`.

    Args:
      window, mode, mirror: as in `span_logits`.
      choice: "argmax", the most probable class of each factor; "sample", sampled from the model's distribution; or
        "mean", the most probable buttons, and the expected camera angle over its bins, which minimizes the squared
        error and mostly lies between bin centres.
      rng: key for sampling; samples depend on it, the video and the window, not on the rest of the batch.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice is {choice!r}; choose from {', '.join(CHOICES)}")

    def label_window(i: Array, logits: Logits) -> Labels:
        keys = jax.vmap(lambda origin: jax.random.fold_in(jax.random.fold_in(rng, origin[0]), origin[1] + i))(
            spans.origin
        )
        return labels_from_logits(idm.space, logits, choice, keys)

    return span_logits(idm, window, mode, params, spans, mirror, label_window)


def span_logits(
    idm: InverseDynamicsModel,
    window: int,
    mode: str,
    params: Any,
    spans: Spans,
    mirror: bool = False,
    postprocess: Callable[[Array, Logits], Any] = lambda _, logits: logits,
) -> Any:
    """Predicts logits for all windows of some spans: `[b, windows, window, choices, classes]` by head.

    Args:
      idm: the model.
      window: frames, an even number.
      mode: "exact" processes every window separately, as in training: frames beyond it are black. "shared" computes
        the embedding of every frame once, for both windows that contain it. Only the embeddings of a window's outermost
        two frames on each side differ: their temporal convolution reads the true neighbours. The labels of these frames
        are not kept, but all frames attend to them, so other labels differ slightly. If a window is a whole video,
        nothing differs.
      params: of the model.
      spans: input frames.
      mirror: test-time augmentation: averages the predictions for every window and its mirror image. Our addition, for
        models trained on mirrored windows.
      postprocess: function of a window's index and its logits, `[b, window, ...]`, applied before windows are stacked.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose from {', '.join(MODES)}")
    half = window // 2
    views = (spans.frames, spans.frames[..., ::-1, :])[: 1 + mirror]
    count = spans.valid.shape[1] // half - 1
    variables = {"params": params}

    def cut(array: Array, start: Array, length: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(array, start, length, axis=1)

    def embed_half(i: Array) -> list[Array]:  # half a window at a time, to bound the memory of activations
        length = half + 2 * TEMPORAL_RADIUS
        return [idm.apply(variables, cut(frames, i * half, length), method="embed") for frames in views]

    def exact(i: Array) -> Any:
        valid = cut(spans.valid, i * half, window)
        windows = (cut(frames, i * half + TEMPORAL_RADIUS, window) for frames in views)
        return combine(i, [idm.apply(variables, frames, valid).logits for frames in windows])

    def shared(i: Array) -> Any:
        valid = cut(spans.valid, i * half, window)
        windows = (jnp.concatenate([embeddings[i], embeddings[i + 1]], axis=1) for embeddings in halves)
        return combine(i, [idm.apply(variables, x, valid, method="attend").logits for x in windows])

    def combine(i: Array, logits: list[Logits]) -> Any:
        return postprocess(i, average_mirrored(idm.space, *logits) if mirror else logits[0])

    if mode == "shared":
        halves = jax.lax.map(embed_half, jnp.arange(count + 1))
    outputs = jax.lax.map(shared if mode == "shared" else exact, jnp.arange(count))
    return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1), outputs)


def average_mirrored(space: ActionSpace, plain: Logits, mirrored: Logits) -> Logits:
    """Averages the probabilities for a window and its mirror image, with left and right of the latter swapped back.

    Returns log-probabilities by head.
    """
    unmirrored = {"buttons": mirrored["buttons"][:, :, np.array(space.mirrored_keys)]}
    if space.axes:
        flipped = (space.mirrored_axes < 0)[:, None]
        unmirrored["camera"] = jnp.where(flipped, mirrored["camera"][..., ::-1], mirrored["camera"])
    p, q = (
        {head: jax.nn.log_softmax(head_logits) for head, head_logits in view.items()} for view in (plain, unmirrored)
    )
    return {head: jnp.logaddexp(p[head], q[head]) - jnp.log(2) for head in p}


def labels_from_logits(space: ActionSpace, logits: Logits, choice: str, rngs: Array) -> Labels:
    """Chooses labels, and computes the probability of their classes (confidence); `rngs` has a key for every row."""
    if choice == "sample":
        head_rngs = jax.vmap(lambda rng: jax.random.split(rng, len(logits)))(rngs)
        sample = jax.vmap(jax.random.categorical)
        chosen = {head: sample(head_rngs[:, i], head_logits) for i, (head, head_logits) in enumerate(logits.items())}
    else:
        chosen = {head: head_logits.argmax(-1) for head, head_logits in logits.items()}
    distribution = FactoredDistribution(space)
    action = make_action(space, chosen)
    buttons, camera = distribution.decode(action)
    if choice == "mean" and space.axes:
        centres = jnp.asarray(space.centres, jnp.float32)
        camera = (jax.nn.softmax(logits["camera"]) * centres).sum(-1)
        action = action._replace(bins=space.to_bins(camera))
    return Labels(buttons, camera, jnp.exp(distribution.log_prob(logits, action)))
