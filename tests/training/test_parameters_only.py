"""Work directories with a model's parameters alone: equal models, no local paths, half the size in bfloat16."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import foundation, idm
from tests import programs
from tests.checkpoint_maker import write_checkpoint
from vpt_jax.actions.spaces import DOOM
from vpt_jax.models.policy import init_params
from vpt_jax.models.presets import make_idm, make_policy
from vpt_jax.training.checkpoints import load_model, load_policy
from vpt_jax.training.parameters_only import CheckpointError, export_parameters

SIZE = 32


@pytest.fixture(scope="module", params=["policy", "idm"])
def run(request, tmp_path_factory):
    """A work directory of a model of Doom's own actions, with the paths of a real run in its settings."""
    folder = tmp_path_factory.mktemp("run")
    config = (foundation if request.param == "policy" else idm).get_config("demo")
    config.model.preset, config.workdir, config.data.train = "nano", str(folder), str(folder / "data")
    module = (make_policy if request.param == "policy" else make_idm)(config.model, DOOM)
    inputs = (jnp.zeros((1, 1), bool), module.initial_memory(1)) if request.param == "policy" else ()
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1, SIZE, SIZE, 3), jnp.uint8), *inputs)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes["params"])
    stream = {"train": {"folder": str(folder)}}
    return write_checkpoint(folder, params, config, SIZE, 8, 3, stream, action_space=DOOM.to_dict(), steps_per_epoch=2)


def contents(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_exported_model_equals_that_of_the_run_and_has_no_path_of_it(run, tmp_path):
    programs.run("export_weights", f"--run={run}", f"--out={tmp_path / 'small'}")
    before, after = load_model(run), load_model(tmp_path / "small")
    assert after.module == before.module
    assert after.module.space == DOOM
    assert (after.step, after.frame_shape) == (3, (SIZE, SIZE, 3))
    jax.tree.map(np.testing.assert_array_equal, after.params, before.params)
    assert str(run).encode() in contents(run)
    for path in (run, tmp_path):
        assert str(path).encode() not in contents(tmp_path / "small")


def test_bfloat16_rounds_the_values_and_takes_much_less_space(run, tmp_path):
    for dtype in ("float32", "bfloat16"):
        export_parameters(run, tmp_path / dtype, dtype)
    before, after = (jax.tree.leaves(load_model(folder).params) for folder in (run, tmp_path / "bfloat16"))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(np.asarray(one).astype(jnp.bfloat16).astype(np.float32), other)
    assert len(contents(tmp_path / "bfloat16")) < 0.7 * len(contents(tmp_path / "float32"))


def test_metadata_has_what_loading_needs(run, tmp_path):
    export_parameters(run, tmp_path)
    metadata = json.loads((tmp_path / "checkpoints" / "3" / "facts" / "metadata").read_text())
    assert metadata["stream"] == {"frame_shape": [SIZE, SIZE, 3], "length": 8}
    assert metadata["config"].keys() == {"stage", "model"}
    assert metadata["steps_per_epoch"] == 2


def test_a_policy_that_reads_text_keeps_its_embedders_name_and_digest(tmp_path):
    config = foundation.get_config("demo")
    config.model.update(preset="nano", text_features=256)
    config.data.text_embedder = "/models/sentences"
    module = make_policy(config.model)
    shapes = jax.eval_shape(partial(init_params, module, (16, 16, 3)), jax.random.key(0))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    run = write_checkpoint(tmp_path / "run", params, config, 16, 8, 2, {"text": ["sha-1", 256]})
    export_parameters(run, tmp_path / "small")
    assert load_policy(run).embedder == ("/models/sentences", "sha-1", 256)
    assert load_policy(tmp_path / "small").embedder == ("sentences", "sha-1", 256)


def test_a_folder_with_a_checkpoint_and_an_unknown_dtype_are_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match="holds a checkpoint already"):
        export_parameters(run, run)
    with pytest.raises(CheckpointError, match="the dtype is 'int8'; choose one of float32, bfloat16"):
        export_parameters(run, tmp_path, "int8")


def test_a_dtype_is_refused_for_files(run, tmp_path):
    out = tmp_path / "a.weights"
    output = programs.run("export_weights", f"--run={run}", f"--out={out}", "--dtype=bfloat16", status=1)
    assert f"error: --dtype=bfloat16 is for folders, and --out={out} is a file: omit it" in output
