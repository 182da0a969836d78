"""Masks and the distance term against tests/golden/attention_mask.npz."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.models.attention import spread_basis
from vpt_jax.models.kv_cache import causal_band, empty_memory, frames_back, look

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "attention_mask.npz")
META = json.loads(str(GOLDEN["meta"]))


@pytest.mark.parametrize("case", range(len(META["cases"])))
def test_masks_over_sequences_of_chunks(case):
    settings = META["cases"][case]
    memory = empty_memory(settings["batch"], settings["maxlen"], features=1, layers=1)
    for number, length in enumerate(settings["chunks"]):
        name = f"case{case}/chunk{number}"
        first = np.zeros((settings["batch"], length), bool)
        first[:, 0] = GOLDEN[f"{name}/first"]
        mask, memory = look(first, memory)
        heads = np.repeat(np.asarray(mask), settings["heads"], axis=0)
        np.testing.assert_array_equal(heads, GOLDEN[f"{name}/mask"])
        np.testing.assert_array_equal(memory.mask, GOLDEN[f"{name}/state_mask"][:, 0])


def named(prefix):
    """Arrays below `prefix` with the numbers in their names, such as t3_T6_maxlen4."""
    for name in GOLDEN.files:
        if name.startswith(prefix):
            setting = name.split("/")[1]
            yield {part.rstrip("0123456789"): int(part.lstrip("tTmaxlen")) for part in setting.split("_")}, name


def test_band():
    bands = list(named("band/"))
    assert len(bands) == 43
    for size, name in bands:
        np.testing.assert_array_equal(causal_band(size["t"], size["T"], size["maxlen"]), GOLDEN[name], name)


def test_spread_basis():
    spreads = [(size, name) for size, name in named("bandify/") if name.endswith("D_ntT")]
    assert len(spreads) == 7
    for size, name in spreads:
        basis = jnp.asarray(GOLDEN[name.replace("D_ntT", "b_nd")])
        back = frames_back(size["t"], basis.shape[1])
        np.testing.assert_array_equal(spread_basis(basis, back), GOLDEN[name], name)
