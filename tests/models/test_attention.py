"""Attention masks and the relative position bias compared with tests/golden/attention_mask.npz."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.models.attention import gather_relative_bias
from vpt_jax.models.kv_cache import attention_mask, causal_band, empty_cache, relative_distance

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "attention_mask.npz")
META = json.loads(str(GOLDEN["meta"]))


@pytest.mark.parametrize("case", range(len(META["cases"])))
def test_masks_over_sequences_of_chunks(case):
    settings = META["cases"][case]
    memory = empty_cache(settings["batch"], settings["maxlen"], features=1, layers=1)
    for number, length in enumerate(settings["chunks"]):
        name = f"case{case}/chunk{number}"
        first = np.zeros((settings["batch"], length), bool)
        first[:, 0] = GOLDEN[f"{name}/first"]
        mask, memory = attention_mask(first, memory)
        heads = np.repeat(np.asarray(mask), settings["heads"], axis=0)
        np.testing.assert_array_equal(heads, GOLDEN[f"{name}/mask"])
        np.testing.assert_array_equal(memory.mask, GOLDEN[f"{name}/state_mask"][:, 0])


def golden_arrays(prefix):
    """Names of golden arrays below `prefix`, with the numbers in them, such as those of t3_T6_maxlen4."""
    for name in GOLDEN.files:
        if name.startswith(prefix):
            setting = name.split("/")[1]
            yield {part.rstrip("0123456789"): int(part.lstrip("tTmaxlen")) for part in setting.split("_")}, name


def test_causal_band():
    bands = list(golden_arrays("band/"))
    assert len(bands) == 43
    for size, name in bands:
        np.testing.assert_array_equal(causal_band(size["t"], size["T"], size["maxlen"]), GOLDEN[name], name)


def test_gather_relative_bias():
    biases = [(size, name) for size, name in golden_arrays("bandify/") if name.endswith("D_ntT")]
    assert len(biases) == 7
    for size, name in biases:
        basis = jnp.asarray(GOLDEN[name.replace("D_ntT", "b_nd")])
        distance = relative_distance(size["t"], basis.shape[1])
        np.testing.assert_array_equal(gather_relative_bias(basis, distance), GOLDEN[name], name)
