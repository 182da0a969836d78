"""Labels for the windows of some spans: the inverse dynamics model on the device, by itself or with shared embeddings."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vpt_jax.labelling.plan import Labels, Spans
from vpt_jax.models.idm import REACH, InverseDynamicsModel

MODES = ("shared", "exact")
CHOICES = ("argmax", "sample")


def label_spans(
    idm: InverseDynamicsModel, window: int, mode: str, choice: str, params: Any, rng: jax.Array, spans: Spans
) -> Labels:
    """Labels of all windows of some spans: `[b, windows, window, ...]`.

    Args:
      window: frames, an even number.
      mode: "exact" takes every window by itself, as the model was trained: beyond it all is black. "shared" computes the
        embedding of every frame once, for all windows that it is in; only the outermost two frames of a window differ,
        which then see their true neighbours, and through attention, slightly, all the others. Where a window is a whole
        video, both are the same.
      choice: "argmax", the most probable of each choice; or "sample", drawn as probable as the model says.
      rng: of the draws; they depend on it and on the number of the span, not on what else is in the batch.
    """
    half = window // 2
    count = spans.valid.shape[1] // half - 1
    variables = {"params": params}

    def cut(array: Array, start: Array, length: int) -> Array:
        return jax.lax.dynamic_slice_in_dim(array, start, length, axis=1)

    def embed_half(i: Array) -> Array:  # in pieces, so that their activations need not fit into memory all at once
        return idm.apply(variables, cut(spans.frames, i * half, half + 2 * REACH), method="embed")

    def label_window(logits: dict[str, Array], i: Array) -> Labels:
        return choose(
            logits, choice, jax.vmap(lambda number: jax.random.fold_in(rng, number * count + i))(spans.number)
        )

    def exact(i: Array) -> Labels:
        frames = cut(spans.frames, i * half + REACH, window)
        return label_window(idm.apply(variables, frames, cut(spans.valid, i * half, window)).logits, i)

    def shared(i: Array) -> Labels:
        x = jnp.concatenate([halves[i], halves[i + 1]], axis=1)
        return label_window(idm.apply(variables, x, cut(spans.valid, i * half, window), method="attend").logits, i)

    if mode == "shared":
        halves = jax.lax.map(embed_half, jnp.arange(count + 1))
    labels = jax.lax.map(shared if mode == "shared" else exact, jnp.arange(count))
    return jax.tree.map(lambda array: jnp.moveaxis(array, 0, 1), labels)


def choose(logits: dict[str, Float[Array, "b t choices classes"]], choice: str, rngs: Array) -> Labels:
    """Labels from logits, and their probability; `rngs` has a key for every row."""
    chosen, log_prob = {}, jnp.zeros(())
    for number, (head, of_head) in enumerate(logits.items()):
        if choice == "sample":
            draw = jax.vmap(
                lambda rng, row, number=number: jax.random.categorical(jax.random.fold_in(rng, number), row)
            )
            chosen[head] = draw(rngs, of_head)
        else:
            chosen[head] = of_head.argmax(-1)
        log_probs = jax.nn.log_softmax(of_head)
        log_prob += jnp.take_along_axis(log_probs, chosen[head][..., None], -1)[..., 0].sum(-1)
    return Labels(chosen["buttons"].astype(jnp.uint8), chosen["camera"].astype(jnp.uint8), jnp.exp(log_prob))
