"""Copycat check of a cloned policy: its held-out loss without the picture, and without the history.

A policy that reads its previous actions off its frames, and repeats them, has a low loss and plays badly: the copycat
problem (Wen et al. 2020), a case of causal confusion in imitation learning (de Haan et al. 2019). If the loss hardly
rises without the picture, the frames are not used; if it hardly rises when every frame is the first of an episode, no
history is used.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.metrics import Predict, Totals, compute_totals
from vpt_jax.evaluation.resampling import Figure, figures_with_intervals

# Inputs by name, each a function of the recorded batch.
INPUTS: dict[str, Callable[[Any], Any]] = {
    "as recorded": lambda batch: batch,
    "picture blanked": lambda batch: batch._replace(frames=jnp.zeros_like(batch.frames)),
    "history blanked": lambda batch: batch._replace(first=jnp.ones_like(batch.first)),
}
# The same of policies that read text: if the loss hardly rises without it, they cannot be steered.
INPUTS_WITH_TEXT = INPUTS | {"text blanked": lambda batch: batch._replace(text=jnp.zeros_like(batch.text))}


def copycat_losses(
    space: ActionSpace,
    predict: Predict,
    initial_memory: Callable[[], Any],
    batches: Callable[[], Iterable[Batch]],
    params: Any,
    inputs: Mapping[str, Callable[[Any], Any]] = INPUTS,
) -> Mapping[str, Figure]:
    """Held-out loss in nats per frame for each of `inputs`, with a 95% interval by bootstrap over rows of the batches.

    A row is a stretch of play: neighbouring frames are correlated, and rows hardly are.

    Args:
        space: of the actions.
        predict: predictions of the policy on a batch.
        initial_memory: makes the policy's memory before the first batch, for all rows.
        batches: starts a pass over the held-out data.
        params: of the policy.
        inputs: `INPUTS`, or `INPUTS_WITH_TEXT` for batches with text.
    """
    step = jax.jit(partial(_row_totals, space, predict))
    losses = {}
    for name, change in inputs.items():
        memory, totals = initial_memory(), []
        for batch in batches():
            batch_totals, memory = step(params, memory, change(batch))
            totals.append(jax.device_get(batch_totals))
        by_row = Totals(*(np.sum(field, axis=0) for field in zip(*totals, strict=True)))
        rows = [Totals(*row) for row in zip(*by_row, strict=True)]
        with_frames = [row for row in rows if row.frames]
        losses[name] = figures_with_intervals(with_frames, lambda sums: {"nll": float(sums.loss / sums.frames)})["nll"]
    return losses


def _row_totals(space: ActionSpace, predict: Predict, params: Any, memory: Any, batch: Batch) -> tuple[Totals, Any]:
    """Totals of each row, and the memory after the batch."""
    prediction, memory = predict(params, memory, batch)
    return jax.vmap(partial(compute_totals, space))(prediction, batch.buttons, batch.camera, batch.valid), memory
