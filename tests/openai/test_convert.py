"""Import and export of OpenAI's files, at the released sizes, by the launch programs."""

import hashlib
import json
import os
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import vpt_jax
from tests.openai.test_weights import META, STATE_DICT
from tests.programs import ROOT
from tests.programs import run as launch
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.spaces import DOOM
from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import IDMS, POLICIES
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.openai.convert import ConversionError, _to_openai, export_weights, import_weights
from vpt_jax.openai.pickle_reader import ModelSettings, WeightsFileError, write_model, write_weights
from vpt_jax.openai.weights import idm_to_openai, policy_to_openai
from vpt_jax.training.checkpoints import TrainedPolicy, WrongStageError, load_idm, load_model

FRAME = (128, 128, 3)
RELEASED = {
    "1x": (70_998_651, 4, 1024, 8),
    "2x": (248_495_291, 8, 2048, 16),
}  # parameters, impala_width, hidsize, heads


def like(shapes, scale=1.0):
    """Random arrays of these shapes."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.float32(scale) * rng.standard_normal(leaf.shape, np.float32), shapes)


def policy_files(folder, preset, frame=FRAME, scale=1.0, **options):
    """A policy's two files, of random tensors; returns the tensors."""
    policy = Policy(**POLICIES[preset], **options)
    params = like(jax.eval_shape(lambda: init_params(policy, frame, jax.random.key(0))), scale)
    normalizers = (ValueNormalizer(np.float32([m]), np.float32([m * m + 1]), np.float32(0.5)) for m in (3, 4))
    net, head, tensors = policy_to_openai(policy, params, frame, *normalizers)
    if preset in RELEASED:  # as in the released file
        _, width, hidsize, heads = RELEASED[preset]
        net |= {"impala_width": width, "impala_chans": [16, 32, 32], "hidsize": hidsize, "attention_heads": heads}
    write_weights(folder / "a.weights", tensors)
    write_model(folder / "a.model", ModelSettings(net, head))
    return tensors


def launch_measured(program, *flags):
    """Runs a program; returns its output and its peak memory in bytes."""
    environment = os.environ | {"XLA_FLAGS": ""}
    command = [sys.executable, f"launch/{program}.py", *flags]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    return output, usage.ru_maxrss * 1024


@pytest.mark.parametrize(
    "preset", [pytest.param("1x", marks=pytest.mark.slow), pytest.param("2x", marks=pytest.mark.slow)]
)
def test_import_and_export_of_a_released_size_are_bit_exact(tmp_path, preset):
    tensors = policy_files(tmp_path, preset)
    assert {without_numbers(name) for name in tensors} == {without_numbers(name) for name in STATE_DICT}
    statistics = sum(tensor.size for name, tensor in tensors.items() if "normalizer" in name)
    assert sum(tensor.size for tensor in tensors.values()) - statistics == RELEASED[preset][0]

    size = (tmp_path / "a.weights").stat().st_size
    files = [f"--model={tmp_path}/a.model", f"--weights={tmp_path}/a.weights", f"--out={tmp_path}/run"]
    output, peak = launch_measured("import_weights", *files)
    assert "reading: 100%" in output
    print(f"memory while importing: {peak / size:.2f} times the file")
    if preset == "2x":  # with smaller files, the libraries take more than the tensors
        assert peak < 2.5 * size
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert card["source"]["weights"] == {
        "file": "a.weights", "bytes": size, "sha256": hashlib.sha256((tmp_path / "a.weights").read_bytes()).hexdigest(),
    }  # fmt: skip

    launch("export_weights", f"--run={tmp_path}/run", f"--out={tmp_path}/b.weights")
    assert (tmp_path / "b.weights").read_bytes() == (tmp_path / "a.weights").read_bytes()


def without_numbers(name):
    """A tensor's name with every number replaced by 0."""
    return re.sub(r"\d+", "0", name)


def import_small(folder, **options):
    tensors = policy_files(folder, "nano", (16, 16, 3), **options)
    launch("import_weights", f"--model={folder}/a.model", f"--weights={folder}/a.weights", f"--out={folder}/run")
    return tensors


def test_a_model_from_reinforcement_learning_keeps_both_values(tmp_path):
    tensors = import_small(tmp_path, temperature=2.0, aux_value=True)
    policy = load_model(tmp_path / "run")
    assert (policy.module.temperature, policy.module.aux_value, policy.frame_shape) == (2.0, True, (16, 16, 3))
    np.testing.assert_array_equal(policy.params["aux_value"]["bias"], tensors["aux_value_head.linear.bias"])
    np.testing.assert_allclose(policy.normalizer.denormalize(np.zeros(1)), 6)
    np.testing.assert_allclose(policy.aux_normalizer.denormalize(np.zeros(1)), 8)
    launch("export_weights", f"--run={tmp_path}/run", f"--out={tmp_path}/b.safetensors")
    from safetensors.numpy import load_file

    exported = load_file(tmp_path / "b.safetensors")
    assert exported.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(exported[name], tensor, err_msg=name, strict=True)


def idm_files(folder, preset):
    """An inverse dynamics model's two files, of random tensors; returns the module and the parameters."""
    idm = InverseDynamicsModel(**IDMS[preset], use_last=False, temperature=4.0)
    shapes = jax.eval_shape(idm.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 1, 16, 16, 3), np.uint8))
    params = like(shapes["params"])
    net, head, tensors = idm_to_openai(idm, params, (16, 16, 3), 32)
    write_weights(folder / "a.weights", tensors)
    write_model(folder / "a.model", ModelSettings(net, head))
    return idm, params


def test_an_inverse_dynamics_model_comes_in_and_goes_out(tmp_path):
    idm, params = idm_files(tmp_path, "tiny")
    launch("import_weights", f"--model={tmp_path}/a.model", f"--weights={tmp_path}/a.weights", f"--out={tmp_path}/run")
    trained = load_idm(tmp_path / "run")
    assert (trained.module, trained.frame_shape, trained.window) == (idm, (16, 16, 3), 32)
    jax.tree.map(np.testing.assert_array_equal, trained.params, params)
    launch("export_weights", f"--run={tmp_path}/run", f"--out={tmp_path}/b.weights")
    assert (tmp_path / "b.weights").read_bytes() == (tmp_path / "a.weights").read_bytes()
    assert (tmp_path / "b.model").read_bytes() == (tmp_path / "a.model").read_bytes()


def assert_same_model(trained, loaded):
    """Equal modules, shapes and arrays, on the same device."""
    for one, other in zip(trained._replace(metadata=None), loaded._replace(metadata=None), strict=True):
        if isinstance(one, Policy | InverseDynamicsModel | int):
            assert one == other
        else:
            jax.tree.map(np.testing.assert_array_equal, one, other)
    assert {array.device for array in jax.tree.leaves(trained.params)} == {jax.local_devices()[0]}


def test_a_policy_is_read_as_if_it_had_been_imported_and_acts(tmp_path):
    policy_files(tmp_path, "nano", (16, 16, 3), aux_value=True, temperature=2.0)
    files = {path.name for path in tmp_path.iterdir()}
    policy = vpt_jax.from_openai(str(tmp_path / "a.model"), tmp_path / "a.weights")
    assert {path.name for path in tmp_path.iterdir()} == files
    import_weights(tmp_path / "a.model", tmp_path / "a.weights", tmp_path / "run")
    assert_same_model(policy, vpt_jax.load_policy(tmp_path / "run"))
    frame = np.random.default_rng(0).integers(0, 256, (36, 64, 3), np.uint8)
    actions = [
        agent.act({"pov": frame}) for agent in (vpt_jax.PolicyAgent(policy), vpt_jax.PolicyAgent.load(tmp_path / "run"))
    ]
    assert MINERL.from_env(actions[0])[0].tolist() == MINERL.from_env(actions[1])[0].tolist()
    with pytest.raises(WrongStageError, match="this is a policy, which cannot label videos"):
        vpt_jax.VideoLabeller(policy)


def test_an_inverse_dynamics_model_is_read_as_if_it_had_been_imported_and_labels(tmp_path):
    idm_files(tmp_path, "nano")
    idm = vpt_jax.from_openai(tmp_path / "a.model", tmp_path / "a.weights")
    import_weights(tmp_path / "a.model", tmp_path / "a.weights", tmp_path / "run")
    assert_same_model(idm, vpt_jax.load_idm(tmp_path / "run"))
    labels = vpt_jax.VideoLabeller(idm).label(ROOT / "tests" / "clips" / "build_gate_5.mp4")
    assert labels.buttons.shape == (16, 20)
    assert labels.camera.shape == (16, 2)
    assert ((labels.confidence > 0) & (labels.confidence <= 1)).all()
    with pytest.raises(WrongStageError, match="this is an inverse dynamics model, which cannot act"):
        vpt_jax.PolicyAgent(idm)


def test_a_network_of_any_size_is_read(tmp_path):
    """The golden model is no preset."""
    write_model(tmp_path / "a.model", ModelSettings(META["policy_kwargs"], {}))
    write_weights(tmp_path / "a.weights", STATE_DICT)
    assert vpt_jax.from_openai(tmp_path / "a.model", tmp_path / "a.weights").module.features == 64
    with pytest.raises(vpt_jax.UserError, match=r"a\.model is truncated, or not a file of PyTorch"):
        vpt_jax.from_openai(tmp_path / "a.model", tmp_path / "a.model")
    with pytest.raises(vpt_jax.UserError, match=r"there is no file .*none\.model"):
        vpt_jax.from_openai(tmp_path / "none.model", tmp_path / "a.weights")


def test_errors_name_the_file_and_the_cause(tmp_path):
    import_small(tmp_path)
    model, weights, run, new = (tmp_path / name for name in ("a.model", "a.weights", "run", "new"))
    golden = tmp_path / "golden.model", tmp_path / "golden.weights"
    write_model(golden[0], ModelSettings(META["policy_kwargs"], {}))
    write_weights(golden[1], STATE_DICT)
    for message, function, *arguments in (
        ("holds a checkpoint already: choose another folder", import_weights, model, weights, run),
        ("a.weights (has .* bytes|is damaged)", import_weights, weights, weights, new),
        ("a.model: cannot convert OpenAI's weights: ", import_weights, model, golden[1], new),
        ("the model is none of nano, tiny, 1m, 5m, 20m, 1x, 2x, 3x", import_weights, *golden, new),
        ("must end in one of .weights, .safetensors", export_weights, run, "x.bin"),
    ):
        with pytest.raises((ConversionError, WeightsFileError), match=message):
            function(*arguments)
    assert not new.exists()
    output = launch("import_weights", "--model=none.model", f"--weights={weights}", "--out=x", status=1)
    assert "error: there is no file none.model" in output
    assert "Traceback" not in output
    unreadable = "--weights=/proc/self/clear_refs"  # a regular file, of which Linux reads nothing
    output = launch("import_weights", f"--model={model}", unreadable, f"--out={new}", status=1)
    assert re.search(r"error: .*(Invalid argument|Permission denied).*run the same command again", output), output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "factored"}, "has a head 'factored'"),
        ({"space": DOOM}, "'doom'"),
        ({"text_features": 5}, "reads text"),
    ],
)
def test_only_the_joint_head_of_minerls_space_without_text_is_exported(changes, message):
    module = Policy(widths=(4,), features=16, heads=2, layers=1, **changes)
    new = ValueNormalizer.create()
    with pytest.raises(ConversionError, match=message):
        _to_openai(TrainedPolicy(module, {}, (16, 16, 3), 0, new, new))
