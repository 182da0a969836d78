"""Sweeps in which nothing varies: chains of stages, one of which writes the result."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest
from demo.stages import StageFailedError
from ml_collections import ConfigDict
from sweeps.plan import make_plan

from configs.sweeps import base, play_and_loss, steering
from launch import sweep
from tests.programs import ROOT
from tests.repository import load_config
from vpt_jax.report.experiments import Experiment, Point, Series, Verdict, read_experiment, write_experiment
from vpt_jax.report.play_and_loss import FILE
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.renamed_fields import field_names

CHAINS = [play_and_loss, steering]
PROGRAM = """
import pathlib, sys
fields = dict(argument.removeprefix("--config.").split("=", 1) for argument in sys.argv[2:])
folder = pathlib.Path(fields.get("workdir") or fields["out"])
folder.mkdir(exist_ok=True)
with open(folder.parent / "ran", "a") as file:
    file.write(folder.name.rpartition("-")[0] + "\\n")
"""


@pytest.mark.parametrize("variant", base.VARIANTS)
@pytest.mark.parametrize("module", CHAINS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_the_fields_are_those_of_the_programs(module, variant):
    config = module.get_config(variant)
    plan = make_plan(config, ROOT)
    assert len(plan.runs) == 1
    for stage in plan.stages:
        file, _, named = stage.command[2].removeprefix("--config=").partition(":")
        fields = {*field_names(load_config(str(Path(file).relative_to(ROOT)), named or None))}
        settings = dict(argument.removeprefix("--config.").split("=", 1) for argument in stage.command[3:])
        assert settings.keys() <= fields, stage.name
        if play := settings.get("play.settings"):
            followed = {*field_names(load_config("configs/follow.py", settings["play.game"]))}
            assert {setting.partition("=")[0] for setting in ast.literal_eval(play)} <= followed


def test_the_play_of_checkpoints_is_in_the_file_that_training_writes():
    assert play_and_loss.get_config().report.file == FILE


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Two stages of fake programs, which write no result."""
    (tmp_path / "launch").mkdir()
    for name in ("prepare", "train"):
        (tmp_path / "launch" / f"{name}.py").write_text(PROGRAM)
    monkeypatch.setattr(sweep, "ROOT", tmp_path)
    monkeypatch.setattr(sweep, "_DRY_RUN", SimpleNamespace(value=False))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    config = base.get_config("mine", "small")
    config.update(workdir=str(tmp_path / "sweep"), max_parallel=1)
    config.stages.data = base.stage("prepare", "prepare", "height=16")
    config.stages.policy = base.stage("train", "foundation:demo", "data.train={data}")
    config.report.file = "found.json"
    return config


def test_the_result_is_the_file_of_the_stage(config, tmp_path):
    with pytest.raises(StageFailedError, match=r"policy-seed0-\w{8}: ended without writing .*/found.json\. Run it "):
        sweep.run(config)
    (folder,) = (tmp_path / "sweep").glob("policy-*")
    point = Point("a", 1.0, 0.5, 1.5)
    experiment = Experiment("t", "c", "s", "x", "y", (Series("m", (point,)),), {}, (Verdict("e", "1", False),))
    write_experiment(folder / "found.json", experiment)
    sweep.run(config)
    assert read_experiment(tmp_path / "sweep" / "results" / "mine.json") == experiment
    assert (tmp_path / "sweep" / "mine" / "report.html").exists()
    assert (tmp_path / "sweep" / "ran").read_text().split() == ["data", "policy-seed0", "policy-seed0"]


@pytest.mark.parametrize(
    "fields",
    [
        {"seeds": (0, 1)},
        {"vary": ConfigDict({"size": {"fields": ("policy.model.preset",), "choices": ("nano", "tiny")}})},
    ],
)
def test_the_result_of_a_program_is_that_of_a_single_run(config, fields):
    config.update(fields)
    with pytest.raises(ConfigError, match=r"config.report.file is 'found.json', the result of a single run"):
        sweep.run(config)
