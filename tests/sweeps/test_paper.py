"""All experiments in one command: their commands, the page of those that are done, and a small run."""

import os
import re
from pathlib import Path

import pytest

from configs.paper import get_config
from launch import paper
from tests import programs
from tests.html_page import Page
from tests.programs import ROOT
from tests.repository import load_config
from vpt_jax.report.experiments import Experiment, Point, Series, Verdict, write_experiment
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.renamed_fields import field_names


@pytest.mark.parametrize("size", ["demo", "small"])
def test_every_experiment_writes_its_own_file(tmp_path, size):
    stages = list(paper.stages(get_config(size), tmp_path))
    assert [stage.name for stage in stages] == list(paper.EXPERIMENTS)
    for stage in stages:
        assert stage.output == tmp_path / "experiments" / f"{stage.name}.json"
        assert sum(str(stage.output) in word for word in stage.command) == 1
        assert Path(stage.command[1]).exists()
        file, _, variant = stage.command[2].removeprefix("--config=").partition(":")
        fields = field_names(load_config(str(Path(file).relative_to(ROOT)), variant or None))
        assert {word.removeprefix("--config.").partition("=")[0] for word in stage.command[3:]} <= {*fields}
    config = get_config(size)
    config.experiments = ("heads",)
    assert [stage.name for stage in paper.stages(config, tmp_path)] == ["heads"]


def test_the_page_has_all_files_of_the_folder_in_the_order_of_the_table(tmp_path):
    (tmp_path / "experiments").mkdir()
    for name in ("zebra", "heads", "hours"):
        series = (Series("measured", (Point("a", 1.0, 0.5, 1.5),)),)
        experiment = Experiment(
            name, "c", "s", "x", "y", series, {}, (Verdict("better", "1 against 2", name == "heads"),)
        )
        write_experiment(paper.experiment_file(tmp_path, name), experiment)
    assert paper.write_page(tmp_path) == [
        "NO  hours: better: 1 against 2", "yes heads: better: 1 against 2", "NO  zebra: better: 1 against 2"
    ]  # fmt: skip
    page = Page((tmp_path / "report.html").read_text())
    assert page.text("h2") == ["Verdicts: 1 of 3 expectations hold", "hours", "heads", "zebra"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("experiments", ("head",), "has 'head'; choose among idm_minutes"), ("max_parallel", 0, "is 0: at least one")],
)
def test_invalid_fields_are_refused(tmp_path, field, value, message):
    config = get_config()
    config.workdir = str(tmp_path)
    config[field] = value
    with pytest.raises(ConfigError, match=f"config.{field} {message}"):
        paper.run(config)


@pytest.mark.slow  # some minutes: all kinds of stages, and one that needs all runs
def test_experiments_on_a_small_scale(tmp_path):
    flags = ["--config=paper:small", f"--config.workdir={tmp_path}", "--config.experiments=('null_actions', 'hours')"]
    environment = {"XLA_FLAGS": programs.xla_flags(devices=1)}
    output = programs.run("paper", *flags, **os.environ | environment)
    verdicts = re.findall(r"^(?:yes|NO ) .*: .*\d.*$", output, re.MULTILINE)
    assert len(verdicts) == 4
    starts = re.findall(r"^\[\d\] \[\d/\d\] ([\w.-]+)-\w{8}$", output, re.MULTILINE)
    assert len(starts) == len(set(starts)) == 10  # the recorded play and its dataset once
    page = Page((tmp_path / "report.html").read_text())
    assert page.text("h2")[1:] == ["Amount of pseudo-labelled play", "Null actions"]
    assert page.tags.count("svg") == 2
    again = programs.run("paper", *flags, **os.environ | environment)
    assert not re.search(r"^\[\d", again, re.MULTILINE)
    assert re.findall(r"^(?:yes|NO ) .*: .*\d.*$", again, re.MULTILINE) == verdicts
