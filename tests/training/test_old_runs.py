"""Runs and datasets of the demo from before names were changed are read, and runs resume (tests/old_runs/README.md)."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from ml_collections import ConfigDict

import vpt_jax
from configs import foundation, idm, rl_doom
from configs import prepare as prepare_config
from tests import programs
from tests.conftest import files
from tests.old_runs import make
from vpt_jax.data.dataset import check_dataset, load_index
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.data.streams import Stream, StreamSettings, WindowStream
from vpt_jax.system.renamed_fields import (
    RENAMED_FIELDS,
    RENAMED_VALUES,
    RenamedFieldError,
    explain_missing_field,
    field_names,
)
from vpt_jax.training import setup
from vpt_jax.training.checkpoints import Checkpoints, load_idm, load_policy, run_metadata
from vpt_jax.training.ppg import setup as ppg_setup
from vpt_jax.training.ppg import train as ppg_train
from vpt_jax.training.stages import STAGES

OLD = programs.ROOT / "tests/old_runs"
EXPECTED = json.loads((OLD / "expected.json").read_text())  # by the old code
STEP = {"policy": 3, "idm": 3, "ppg": 1}  # of the only checkpoint
CONFIGS = {"policy": foundation.get_config("demo"), "idm": idm.get_config("demo"), "ppg": rl_doom.get_config()}


@pytest.mark.parametrize(
    ("name", "nulls", "labels"), [("dataset", "drop", "recorded"), ("labelled", "keep", "predicted")]
)
def test_a_dataset_gives_the_same_batches(name, nulls, labels):
    check_dataset(OLD / name)
    assert load_index(OLD / name, "train").labels == labels
    assert make.contents(str(OLD / name), nulls) == EXPECTED[name]


def test_preparing_an_old_dataset_again_is_refused(dataset_dir, tmp_path):
    out = shutil.copytree(OLD / "dataset", tmp_path / "dataset")
    config = prepare_config.get_config()
    config.update(recordings=str(dataset_dir.parent / "recordings"), out=str(out), height=16, width=16)
    with pytest.raises(PrepareError, match=r"layout was '2\.0\.0' and is now"):
        prepare(config)
    assert files(out) == files(OLD / "dataset")


@pytest.mark.parametrize("name", ["policy", "idm", "ppg"])
def test_a_model_predicts_the_same(name):
    model = load_idm(OLD / name) if name == "idm" else load_policy(OLD / name)
    assert model.step == STEP[name]
    outputs = (make.idm_outputs if name == "idm" else make.policy_outputs)(model.module, model.params)
    for head, values in outputs.items():
        np.testing.assert_allclose(values, EXPECTED[name][head], atol=3e-5, err_msg=head)


def stored(name):
    return json.loads((OLD / name / "config.json").read_text())


def present(name, **changes):
    """The present config with the values of an old run's fields, under their present names."""
    config, old = CONFIGS[name].copy_and_resolve_references(), ConfigDict(stored(name))
    names = field_names(config)
    for field in field_names(old):
        if not isinstance(value := value_of(old, field), ConfigDict):
            value = RENAMED_VALUES.get(field, {}).get(str(value).lower(), value)
            config.update_from_flattened_dict({new_name(field, names): value})
    config.update_from_flattened_dict(changes)
    return config


def value_of(config, field):
    for name in field.split("."):
        config = config[name]
    return config


def new_name(field, names):
    return field if field in names else next(name for name in RENAMED_FIELDS[field] if name in names)


def restore(name, folder):
    """State of a copy of an old run, and the same as Orbax reads it without being told its structure."""
    run = shutil.copytree(OLD / name, folder / name)
    config = present(name, **({"ppg.sleep_optimizer": False} if name == "ppg" else {}))
    mesh = setup.make_mesh(config, jax.devices()[:1])
    if name == "ppg":
        metadata, built = ppg_train.checkpoint_metadata(config), ppg_setup.make_setup(config, mesh)
    else:
        stream = (WindowStream if name == "idm" else Stream)(stream_settings(config))
        marginal = next(iter(STAGES[name].heads.values())).marginal.from_stream(stream)
        metadata = run_metadata(config, stream.fingerprint())
        built = setup.make_setup(config, mesh, stream.frame_shape, marginal, steps=4)
    checkpoints = Checkpoints(run / "checkpoints", keep_last=1, keep_every_hours=0.0, metadata=metadata)
    state = checkpoints.restore(built.shapes, built.shardings)
    checkpoints.close()
    return state, ocp.StandardCheckpointer().restore((run / "checkpoints" / str(STEP[name]) / "state").absolute())


def stream_settings(config):
    data = config.data
    return StreamSettings(str(OLD / "dataset"), "train", data.batch, data.length, nulls=data.null_actions)


@pytest.mark.parametrize("name", ["policy", "idm", "ppg"])
def test_a_state_is_restored_as_a_whole(name, tmp_path):
    """With the optimizer's state, and in a reinforcement learning run the pretrained policy and the normalizer."""
    state, raw = restore(name, tmp_path)
    assert int(state.step) == STEP[name]
    assert len(jax.tree.leaves(state)) == len(jax.tree.leaves(raw))
    for path, leaf in jax.tree.leaves_with_path(state._replace(opt_state=())):
        np.testing.assert_array_equal(leaf, value_at(raw, path), err_msg=str(path))
    # Orbax stores named tuples as dicts, whose leaves come in another order.
    values, raw_values = (sorted(map(checksum, jax.tree.leaves(tree))) for tree in (state.opt_state, raw["opt_state"]))
    assert values == raw_values


def value_at(raw, path):
    for key in path:
        raw = raw[getattr(key, "name", getattr(key, "key", getattr(key, "idx", None)))]
    return raw


def checksum(leaf):
    return make.digest(np.asarray(leaf))


def train_on(name, workdir, *flags, status=0):
    """Runs the old command again, with the present names and one more step, on a copy of the run."""
    shutil.copytree(OLD / name, workdir)
    config, *old_flags = {"policy": make.POLICY, "idm": make.IDM, "ppg": make.PPG}[name]
    command, names = [config], field_names(CONFIGS[name])
    for flag in old_flags:
        field, value = flag.removeprefix("--config.").split("=")
        if field != "workdir":
            new_value = OLD / value if field in ("init_from", "data.train", "data.valid") else value
            command.append(f"--config.{new_name(field, names)}={new_value}")
    command += [f"--config.workdir={workdir}", f"--config.steps={STEP[name] + 1}", *flags]
    output = programs.run("train", *command, status=status, XLA_FLAGS=programs.xla_flags(devices=1))
    return output, [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["policy", pytest.param("idm", marks=pytest.mark.slow)])
def test_a_run_resumes_with_the_loss_of_the_old_code(name, tmp_path):
    output, metrics = train_on(name, tmp_path / "run")
    assert "resumed from step 3" in output
    last = next(line for line in metrics if line["step"] == 4 and "train/loss" in line)
    assert last == pytest.approx(EXPECTED[name]["step_4"], rel=3e-5)


def test_a_reinforcement_learning_run_is_refused_with_the_field_that_resumes_it(tmp_path):
    output, metrics = train_on("ppg", tmp_path / "run", status=1)
    assert "optimizer.sleep_optimizer was None and is now True" in output
    assert "--config.ppg.sleep_optimizer=False resumes their runs" in output
    assert metrics[-1]["step"] == 1


@pytest.mark.slow
def test_a_reinforcement_learning_run_resumes_by_that_field(tmp_path):
    """Not with the loss of then: minibatches, value normalizer and rewards have other rules now (docs/decisions.md)."""
    output, metrics = train_on("ppg", tmp_path / "run", "--config.ppg.sleep_optimizer=False")
    assert "resumed from step 1" in output
    assert [line["step"] for line in metrics] == [1, 2]
    assert np.isfinite(metrics[-1]["train/loss"])
    assert vpt_jax.load_policy(tmp_path / "run").step == 2


@pytest.mark.parametrize("name", ["policy", "idm", "ppg"])
def test_every_field_of_an_old_config_has_a_place_or_a_new_name(name):
    old, names = field_names(ConfigDict(stored(name))), field_names(CONFIGS[name])
    renamed = [field for field in old if field not in names]
    assert renamed
    for field in renamed:
        assert explain_missing_field(field, names) == f"config.{field} is now called config.{new_name(field, names)}"


@pytest.mark.parametrize("name", ["policy", "idm", "ppg"])
def test_training_by_an_old_config_names_the_new_field(name, tmp_path):
    config = ConfigDict(stored(name))
    config.workdir = str(tmp_path / "run")
    with pytest.raises(RenamedFieldError, match="is now called config"):
        vpt_jax.train(config)
