"""Benchmark of labelling long videos by an inverse dynamics model."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from benches.measuring import DTYPE, SIZE, Row, alternate

from vpt_jax.labelling.model import MODES, label_spans
from vpt_jax.labelling.plan import Spans
from vpt_jax.models.idm import TEMPORAL_RADIUS, InverseDynamicsModel
from vpt_jax.models.presets import IDMS

_IDM = flags.DEFINE_enum("idm", "tiny", list(IDMS), "Size of the inverse dynamics model.")
_ROWS = flags.DEFINE_integer("rows", 1, "Spans labelled at a time.")

ERRORS: tuple[type[Exception], ...] = ()
WINDOW, WINDOWS = 128, 15  # frames of a window, windows of a span, as in configs/label.py


def label() -> list[Row]:
    """Frames labelled per second by each mode, measured in turns, under the same machine load."""
    idm = InverseDynamicsModel(**IDMS[_IDM.value], dtype=jnp.dtype(DTYPE.value))
    rows, frames = _ROWS.value, (WINDOWS + 1) * WINDOW // 2
    rng, size = np.random.default_rng(0), SIZE.value
    pixels = rng.integers(0, 256, (rows, frames + 2 * TEMPORAL_RADIUS, size, size, 3), np.uint8)
    spans = jax.device_put(Spans(pixels, np.ones((rows, frames), bool), np.zeros((rows, 2), int)))
    params = jax.jit(idm.init)(jax.random.key(0), pixels[:1, :1])["params"]
    runs = {}
    for mode in MODES:
        step = jax.jit(partial(label_spans, idm, WINDOW, mode, "argmax"))
        runs[mode] = partial(step.lower(params, jax.random.key(1), spans).compile(), params, jax.random.key(1), spans)
    kept = rows * WINDOWS * WINDOW // 2
    rates = {mode: kept * rate for mode, rate in alternate(runs).items()}
    return [
        {"mode": mode, "model": _IDM.value, "frames": f"{size}x{size}", "frames/s": f"{rate:,.1f}",
         "against exact": f"{rate / rates['exact']:.2f}"}
        for mode, rate in rates.items()
    ]  # fmt: skip
