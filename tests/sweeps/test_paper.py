"""All experiments in one command: their commands, the page of those that are done, and a small run."""

import os
import re
from pathlib import Path

import pytest
from sweeps.plan import make_plan

from configs.paper import get_config
from launch import paper
from tests import programs
from tests.html_page import Page
from tests.programs import ROOT
from tests.repository import load_config
from vpt_jax.report import play_and_loss
from vpt_jax.report.experiments import Experiment, Point, Series, Verdict, read_experiment, write_experiment
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.renamed_fields import field_names


@pytest.mark.parametrize("size", ["demo", "small"])
def test_the_table_names_programs_with_configs_and_fields_that_exist(tmp_path, size):
    stages = list(paper.stages(get_config(size), tmp_path))
    assert [stage.name for stage in stages] == list(paper.PROGRAMS)
    for stage in stages:
        assert f"--config.result_files={tmp_path / 'results'}" in stage.command
        assert Path(stage.command[1]).exists()
        file, _, variant = stage.command[2].removeprefix("--config=").partition(":")
        fields = field_names(load_config(str(Path(file).relative_to(ROOT)), variant or None))
        assert {word.removeprefix("--config.").partition("=")[0] for word in stage.command[3:]} <= {*fields}
    config = get_config(size)
    config.programs = ("heads",)
    assert [stage.name for stage in paper.stages(config, tmp_path)] == ["heads"]


def test_the_page_has_all_files_of_the_folder_in_the_order_of_the_table(tmp_path):
    (tmp_path / "results").mkdir()
    for name in ("zebra", "heads", "hours"):
        series = (Series("measured", (Point("a", 1.0, 0.5, 1.5),)),)
        experiment = Experiment(
            name, "c", "s", "x", "y", series, {}, (Verdict("better", "1 against 2", name == "heads"),)
        )
        write_experiment(tmp_path / "results" / f"{name}.json", experiment)
    assert paper.write_page(tmp_path) == [
        "NO  hours: better: 1 against 2", "yes heads: better: 1 against 2", "NO  zebra: better: 1 against 2"
    ]  # fmt: skip
    page = Page((tmp_path / "report.html").read_text())
    assert page.text("h2") == ["Verdicts: 1 of 3 expectations hold", "hours", "heads", "zebra"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("programs", ("head",), "has 'head'; choose among explored"), ("max_parallel", 0, "is 0: at least one")],
)
def test_invalid_fields_are_refused(tmp_path, field, value, message):
    config = get_config()
    config.workdir = str(tmp_path)
    config[field] = value
    with pytest.raises(ConfigError, match=f"config.{field} {message}"):
        paper.run(config)


@pytest.mark.parametrize("size", ["demo", "small"])
def test_the_sweeps_share_their_recorded_play(size):
    names = [name for name, row in paper.PROGRAMS.items() if row.program == "sweep.py"]
    plans = [make_plan(load_config(f"configs/sweeps/{name}.py", size), ROOT) for name in names]
    recordings = {stage.name for plan in plans for stage in plan.stages if stage.command[1].endswith("record.py")}
    assert len(recordings) == 2  # the labelled play, and that whose actions are not used


def test_the_chains_of_stages_name_the_files_that_their_programs_write():
    assert load_config("configs/sweeps/play_and_loss.py").report.file == play_and_loss.FILE
    for row in paper.PROGRAMS.values():
        if row.program == "sweep.py":
            assert load_config(f"configs/{row.config}.py").name == row.files


VERDICT = re.compile(r"^(?:yes|NO ) .*: .*\d.*$", re.MULTILINE)


@pytest.mark.slow  # a quarter of an hour: every program
def test_all_experiments_on_a_small_scale(tmp_path):
    flags = ["--config=paper:small", f"--config.workdir={tmp_path}", "--config.max_parallel=1"]
    environment = {"XLA_FLAGS": programs.xla_flags(devices=1)}
    output = programs.run("paper", *flags, timeout=3600, **os.environ | environment)
    starts = re.findall(r"^\[\d+\] \[\d+/\d+\] (.+)$", output, re.MULTILINE)
    sweep_starts = [start for start in starts if re.search(r"-[0-9a-f]{8}$", start)]
    assert len(sweep_starts) == len(set(sweep_starts)) > 20  # what sweeps share is done once
    files = [[*(tmp_path / "results").glob(f"{row.files}.json")] for row in paper.PROGRAMS.values()]
    assert all(files)
    experiments = [read_experiment(file) for file in (tmp_path / "results").glob("*.json")]
    assert len(experiments) == sum(map(len, files)) >= 7  # the patterns of the table are apart
    assert all(one.claim and one.source and one.baselines and one.verdicts for one in experiments)
    page = Page((tmp_path / "report.html").read_text())
    assert len(page.text("h2")) - 1 == page.tags.count("svg") == len(experiments)
    end = output[output.rindex("\n\n") :]
    assert len(VERDICT.findall(end)) == sum(len(one.verdicts) for one in experiments)
    again = programs.run("paper", *flags, **os.environ | environment)
    assert not re.search(r"^\[\d", again, re.MULTILINE)
    assert VERDICT.findall(again) == VERDICT.findall(end)
