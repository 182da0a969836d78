"""Masks and the distance term against tests/golden/attention_mask.npz."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.models.attention import attention_mask, causal_band, spread_basis

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "attention_mask.npz")
META = json.loads(str(GOLDEN["meta"]))


@pytest.mark.parametrize("case", range(len(META["cases"])))
def test_masks_over_sequences_of_chunks(case):
    settings = META["cases"][case]
    memory_mask = jnp.zeros((settings["batch"], settings["maxlen"]), bool)
    for number, length in enumerate(settings["chunks"]):
        name = f"case{case}/chunk{number}"
        first = np.zeros((settings["batch"], length), bool)
        first[:, 0] = GOLDEN[f"{name}/first"]
        mask, memory_mask = attention_mask(first, memory_mask)
        heads = np.repeat(np.asarray(mask), settings["heads"], axis=0)
        np.testing.assert_array_equal(heads, GOLDEN[f"{name}/mask"])
        np.testing.assert_array_equal(memory_mask, GOLDEN[f"{name}/state_mask"][:, 0])


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
        np.testing.assert_array_equal(spread_basis(basis, size["t"]), GOLDEN[name], name)
