"""The copycat check on a predictor whose use of the picture and of the history is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.actions.minerl import MINERL
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.copycat import INPUTS_WITH_TEXT, copycat_losses
from vpt_jax.evaluation.metrics import Prediction

ROWS, LENGTH = 3, 4


def held_out(seed=0):
    rng = np.random.default_rng(seed)
    for step in range(2):
        frames = np.full((ROWS, LENGTH, 2, 2, 3), 200, np.uint8)
        first = np.zeros((ROWS, LENGTH), bool)
        first[:, 0] = step == 0
        valid = np.ones((ROWS, LENGTH), bool)
        valid[2] = False  # a row without scored frames
        buttons = rng.integers(0, 2, (ROWS, LENGTH, 20)).astype(np.uint8)
        yield Batch(frames, buttons, np.zeros((ROWS, LENGTH, 2), np.float32), first, valid)


def predict(params, memory, batch):
    """Loses 1 nat per frame, 1 more without the picture, and 2 more at the first frame of an episode."""
    loss = params + (batch.frames == 0).all((-1, -2, -3)) + 2 * batch.first
    return Prediction(loss, batch.buttons, batch.camera), memory + 1


def test_losses_rise_without_the_inputs_that_a_policy_uses():
    losses = copycat_losses(MINERL, predict, lambda: jnp.zeros(()), held_out, jnp.ones(()))
    values = {name: figure.value for name, figure in losses.items()}
    assert values == pytest.approx({"as recorded": 1.25, "picture blanked": 2.25, "history blanked": 3})
    assert all(figure.low <= figure.value <= figure.high for figure in losses.values())


def test_the_loss_without_text_is_that_of_batches_without_text():
    def captioned():
        for batch in held_out():
            yield batch._replace(text=np.ones((ROWS, LENGTH, 5), np.float32))

    def reads_text(params, memory, batch):
        prediction, memory = predict(params, memory, batch)
        return prediction._replace(loss=prediction.loss + 4 * (batch.text == 0).all(-1)), memory

    losses = copycat_losses(MINERL, reads_text, lambda: jnp.zeros(()), captioned, jnp.ones(()), INPUTS_WITH_TEXT)
    assert losses["as recorded"].value == pytest.approx(1.25)
    assert losses["text blanked"].value == pytest.approx(5.25)
