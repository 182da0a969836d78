"""Labels for the windows of some spans by the inverse dynamics model, with embeddings shared by windows or without."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vpt_jax.actions import CAMERA, YAW, Array
from vpt_jax.data.augment import MIRRORED_KEYS
from vpt_jax.labelling.plan import Labels, Spans
from vpt_jax.models.heads import factored_log_prob
from vpt_jax.models.idm import REACH, InverseDynamicsModel
from vpt_jax.training.checkpoints import TrainedIDM
from vpt_jax.training.digests import params_digest

Logits = dict[str, Float[Array, "b t choices classes"]]

MODES = ("shared", "exact")
CHOICES = ("argmax", "sample", "mean")


def model_digest(idm: TrainedIDM) -> str:
    """The identity of a model by its parameters and settings, window and frame size, wherever its files lie."""
    return params_digest(idm.params, idm.module, tuple(idm.frame_shape), idm.window)


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
    """Labels of all windows of some spans: `[b, windows, window, ...]`.

    Args:
      window, mode, mirror: as of `span_logits`.
      choice: "argmax", the most probable of each choice; "sample", drawn as probable as the model says; or "mean",
        the most probable keys, and the camera's degrees on average over its bins: of all answers the one with the least
        squared error, mostly between the middles of bins.
      rng: of the draws; they depend on it, the video and the window, not on what else is in the batch.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice is {choice!r}; choose from {', '.join(CHOICES)}")

    def label_window(i: Array, logits: Logits) -> Labels:
        keys = jax.vmap(lambda at: jax.random.fold_in(jax.random.fold_in(rng, at[0]), at[1] + i))(spans.origin)
        return choose(logits, choice, keys)

    return span_logits(idm, window, mode, params, spans, mirror, label_window)


def span_logits(
    idm: InverseDynamicsModel,
    window: int,
    mode: str,
    params: Any,
    spans: Spans,
    mirror: bool = False,
    then: Callable[[Array, Logits], Any] = lambda _, logits: logits,
) -> Any:
    """What the model says of all windows of some spans: `[b, windows, window, choices, classes]` by head.

    Args:
      window: frames, an even number.
      mode: "exact" takes every window by itself, as the model was trained: beyond it all is black. "shared" computes
        the embedding of every frame once, for both windows that it is in. Only the embeddings of a window's outermost
        two frames on each side differ: they then see their true neighbours. None of these frames is kept, but all
        frames attend to them, so other labels differ slightly. Where a window is a whole video, nothing differs.
      mirror: whether the model is asked about the mirror image of every window as well, and both answers count half.
        Our addition, for models trained on mirrored windows.
      then: makes of a window's number and logits, `[b, window, ...]`, what is returned in place of the logits.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; choose from {', '.join(MODES)}")
    half = window // 2
    views = (spans.frames, spans.frames[..., ::-1, :])[: 1 + mirror]
    count = spans.valid.shape[1] // half - 1
    variables = {"params": params}

    def cut(array: Array, start: Array, length: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(array, start, length, axis=1)

    def embed_half(i: Array) -> list[Array]:  # in pieces, whose activations need not fit into memory all at once
        return [idm.apply(variables, cut(frames, i * half, half + 2 * REACH), method="embed") for frames in views]

    def exact(i: Array) -> Any:
        valid = cut(spans.valid, i * half, window)
        windows = (cut(frames, i * half + REACH, window) for frames in views)
        return finish(i, [idm.apply(variables, frames, valid).logits for frames in windows])

    def shared(i: Array) -> Any:
        valid = cut(spans.valid, i * half, window)
        windows = (jnp.concatenate([of_view[i], of_view[i + 1]], axis=1) for of_view in halves)
        return finish(i, [idm.apply(variables, x, valid, method="attend").logits for x in windows])

    def finish(i: Array, logits: list[Logits]) -> Any:
        return then(i, average(*logits) if mirror else logits[0])

    if mode == "shared":
        halves = jax.lax.map(embed_half, jnp.arange(count + 1))
    of_windows = jax.lax.map(shared if mode == "shared" else exact, jnp.arange(count))
    return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1), of_windows)


def average(plain: Logits, mirrored: Logits) -> Logits:
    """What the answers for a window and for its mirror image, left and right put back, say on average."""
    back = {
        "buttons": mirrored["buttons"][:, :, np.array(MIRRORED_KEYS)],
        "camera": mirrored["camera"].at[:, :, YAW].set(mirrored["camera"][:, :, YAW, ::-1]),
    }
    plain, back = ({head: jax.nn.log_softmax(of_head) for head, of_head in said.items()} for said in (plain, back))
    return {head: jnp.logaddexp(plain[head], back[head]) - jnp.log(2) for head in plain}


def choose(logits: Logits, choice: str, rngs: Array) -> Labels:
    """Labels from logits, and the probability of the classes they are in; `rngs` has a key for every row."""
    if choice == "sample":
        of_heads = jax.vmap(lambda rng: jax.random.split(rng, len(logits)))(rngs)
        draw = jax.vmap(jax.random.categorical)
        chosen = {head: draw(of_heads[:, i], of_head) for i, (head, of_head) in enumerate(logits.items())}
    else:
        chosen = {head: of_head.argmax(-1) for head, of_head in logits.items()}
    camera = CAMERA.to_degrees(chosen["camera"])
    if choice == "mean":
        camera = jax.nn.softmax(logits["camera"]) @ jnp.asarray(CAMERA.centres, jnp.float32)
    buttons = chosen["buttons"].astype(jnp.uint8)
    return Labels(buttons, camera, jnp.exp(factored_log_prob(logits, buttons, CAMERA.to_bins(camera))))
