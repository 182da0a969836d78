"""The blocks of docs/guides/modules.md run, as somebody who copies them would see it."""

import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from tests.openai.test_convert import policy_files
from tests.programs import ROOT
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import POLICIES
from vpt_jax.openai.convert import import_weights

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guides" / "modules.md").read_text(), re.DOTALL)
FRAME = (128, 128, 3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the files that the blocks name, of a small policy."""
    place = tmp_path_factory.mktemp("guide")
    policy_files(place, "nano", FRAME, scale=0.1)
    for suffix in (".model", ".weights"):
        (place / f"a{suffix}").rename(place / f"foundation-model-1x{suffix}")
    import_weights(place / "foundation-model-1x.model", place / "foundation-model-1x.weights", place / "runs" / "tuned")
    return place


@pytest.mark.slow  # a minute, most of it compiling
@pytest.mark.parametrize(
    ("number", "output"),
    [
        (0, r"\(2, 8, 8641\) \(2, 8, 121\) \(2, 8\)\n"),
        (1, ""),
        (2, r"loss \d+\.\d{3} nats per frame\nloss \d+\.\d{3} nats per frame\n"),
        (3, r"\d+\.0 places visited\n"),
    ],
)
def test_a_block_of_the_guide_to_modules_runs(place, number, output):
    assert len(BLOCKS) == 4
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    block = BLOCKS[number].replace('"1x"', '"nano"')
    done = subprocess.run([sys.executable, "-c", block], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(output, done.stdout), done.stdout
    if number == 2:
        first, second = map(float, re.findall(r"loss (\S+)", done.stdout))
        assert second < first


def test_an_nnx_module_of_the_policy_has_its_parameters():
    """A name of a submodule that is also a method would hide it from NNX."""
    policy = Policy(**POLICIES["nano"])
    frames, first = np.zeros((1, 2, *FRAME), np.uint8), np.zeros((1, 2), bool)
    model = nnx.eval_shape(
        lambda: nnx.bridge.ToNNX(policy, nnx.Rngs(0)).lazy_init(frames, first, policy.initial_memory(1))
    )
    expected = jax.eval_shape(lambda: init_params(policy, FRAME, jax.random.key(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), expected
    )
