"""Labels for the windows of some spans by the inverse dynamics model, with embeddings shared by windows or without."""

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

Logits = dict[str, Float[Array, "b t choices classes"]]

MODES = ("shared", "exact")
CHOICES = ("argmax", "sample", "mean")


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
      window: frames, an even number.
      mode: "exact" takes every window by itself, as the model was trained: beyond it all is black. "shared" computes
        the embedding of every frame once, for both windows that it is in. Only the embeddings of a window's outermost
        two frames on each side differ: they then see their true neighbours. None of these frames is kept, but all
        frames attend to them, so other labels differ slightly. Where a window is a whole video, nothing differs.
      choice: "argmax", the most probable of each choice; "sample", drawn as probable as the model says; or "mean",
        the most probable keys, and the camera's degrees on average over its bins: of all answers the one with the least
        squared error, mostly between the middles of bins.
      rng: of the draws; they depend on it, the video and the window, not on what else is in the batch.
      mirror: whether the model is asked about the mirror image of every window as well, and both answers count half.
        Our addition, for models trained on mirrored windows.
    """
    if mode not in MODES or choice not in CHOICES:
        raise ValueError(
            f"mode is {mode!r} and choice {choice!r}; choose from {', '.join(MODES)}; {', '.join(CHOICES)}"
        )
    half = window // 2
    views = (spans.frames, spans.frames[..., ::-1, :])[: 1 + mirror]
    count = spans.valid.shape[1] // half - 1
    variables = {"params": params}

    def cut(array: Array, start: Array, length: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(array, start, length, axis=1)

    def embed_half(i: Array) -> list[Array]:  # in pieces, whose activations need not fit into memory all at once
        return [idm.apply(variables, cut(frames, i * half, half + 2 * REACH), method="embed") for frames in views]

    def exact(i: Array) -> Labels:
        valid = cut(spans.valid, i * half, window)
        windows = (cut(frames, i * half + REACH, window) for frames in views)
        return label_window(i, [idm.apply(variables, frames, valid).logits for frames in windows])

    def shared(i: Array) -> Labels:
        valid = cut(spans.valid, i * half, window)
        windows = (jnp.concatenate([of_view[i], of_view[i + 1]], axis=1) for of_view in halves)
        return label_window(i, [idm.apply(variables, x, valid, method="attend").logits for x in windows])

    def label_window(i: Array, logits: list[Logits]) -> Labels:
        keys = jax.vmap(lambda at: jax.random.fold_in(jax.random.fold_in(rng, at[0]), at[1] + i))(spans.origin)
        return choose(average(*logits) if mirror else logits[0], choice, keys)

    if mode == "shared":
        halves = jax.lax.map(embed_half, jnp.arange(count + 1))
    labels = jax.lax.map(shared if mode == "shared" else exact, jnp.arange(count))
    return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1), labels)


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
