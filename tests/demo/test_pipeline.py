"""The whole loop as one command: dependencies of its stages, and a small run of all of them."""

import ast
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from demo.progress_report import ProgressPage
from demo.stages import Stage, Stages

from configs.demo import get_config
from launch import pipeline

from ..html_page import Page

ROOT = Path(__file__).parents[2]


def test_no_stage_depends_on_labels_that_it_must_not_see(tmp_path):
    by_name = {stage.name: stage for stage in pipeline.stages(get_config(), tmp_path)}
    names = list(by_name)
    assert all(
        names.index(needed) < names.index(name) for name, stage in by_name.items() for needed in stage.depends_on
    )

    def all_needed(name):
        return {name}.union(*(all_needed(needed) for needed in by_name[name].depends_on))

    for name in names:
        if name.startswith("train"):
            assert not any("unlabelled" in needed for needed in all_needed(name))
    truth = "prepare the unlabelled play with its true labels"
    assert truth in all_needed("clone a policy from true labels")
    needed_for_predicted = all_needed("clone a policy from predicted labels")
    assert truth not in needed_for_predicted
    assert "label the unlabelled videos" in needed_for_predicted
    assert str(tmp_path / "data" / "truth") not in " ".join(by_name["clone a policy from predicted labels"].command)


@pytest.mark.parametrize("variant", ["showcase", "showcase,gpu", "showcase,tiny"])
def test_showcase_has_one_model_of_each_kind_in_the_games_own_space(tmp_path, variant):
    by_name = {stage.name: stage for stage in pipeline.stages(get_config(variant), tmp_path)}
    names = list(by_name)
    assert [name.split()[0] for name in names] == [
        *["record"] * 2, "prepare", "train", *["label"] * 2, "clone", "score", "play",
    ]  # fmt: skip
    assert all(set(stage.depends_on) <= set(names[:i]) for i, stage in enumerate(by_name.values()))
    assert {"--config.space=doom", "--config.mapping=minerl-to-doom"} <= {*by_name[names[2]].command}
    clone, play = by_name["clone a policy from predicted labels"], by_name["play against the scripted player"]
    assert f"--config.data.train={tmp_path / 'data' / 'predicted'}" in clone.command
    assert play.depends_on == (clone.name,)
    assert f"--config.policies=('policy={tmp_path / 'policy-predicted'}',)" in play.command


def test_idm_is_trained_on_games_of_people_as_well_if_asked(tmp_path):
    config = get_config("showcase")
    config.human_demos = True
    by_name = {stage.name: stage for stage in pipeline.stages(config, tmp_path)}
    assert "--player=demos" in by_name["record the human play"].command
    train = by_name["train an inverse dynamics model on 55 minutes"]
    assert set(train.depends_on) == {
        "prepare the labelled play with its true labels", "prepare the human play with its true labels"
    }  # fmt: skip
    (mixture,) = (flag.partition("=")[2] for flag in train.command if flag.startswith("--config.data.mixture="))
    parts = ast.literal_eval(mixture)
    assert [part["dataset"] for part in parts] == [str(tmp_path / "data" / name) for name in ("labelled", "human")]
    assert not any(flag.startswith("--config.data.train=") for flag in train.command)


def test_a_page_that_cannot_be_drawn_does_not_stop_the_stages(tmp_path, capsys):
    """Such an error once stopped the demo at every restart."""

    def broken_play():
        raise ValueError("no frames\x1b[2J")
        yield

    page = ProgressPage(tmp_path / "report.html", ["record"], {"Recorded play": broken_play})
    stages = [Stage("record", (sys.executable, "-c", "")), Stage("prepare", (sys.executable, "-c", ""))]
    running = Stages(stages, tmp_path / "stages", os.environ, tmp_path)
    assert running.run(1, partial(pipeline.preview, page)).keys() == {"record", "prepare"}
    lines = [line for line in capsys.readouterr().out.splitlines() if "progress page" in line]
    assert lines == [r"the progress page cannot be written: ValueError: no frames\x1b[2J"]


@pytest.mark.parametrize(
    ("field", "value"), [("max_parallel", 0), ("idm.steps", (1, 2)), ("policy.steps", (1, 2)), ("idm.minutes", ()),
     ("label", ("choice=mean",)), ("choosing", 0), ("held_out", 0), ("space", "doom")],
)  # fmt: skip
def test_inconsistent_settings_are_refused_at_once(tmp_path, field, value):
    config = get_config()
    config.workdir = str(tmp_path)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(pipeline.ConfigError, match=f"config.{field.replace('minutes', 'steps')} is "):
        pipeline.run(config)


def test_showcase_without_play_is_refused(tmp_path):
    config = get_config("showcase")
    config.workdir, config.play_episodes = str(tmp_path), 0
    with pytest.raises(pipeline.ConfigError, match=r"config\.play_episodes is 0"):
        pipeline.run(config)


def test_unknown_variant_of_the_demo_names_the_known_ones():
    with pytest.raises(ValueError, match="no variant 'show'; choose one of showcase, showcase,gpu, showcase,tiny"):
        get_config("show")


SMALL = {
    "labelled": 5, "unlabelled": 5, "choosing": 1, "held_out": 2, "record": ("seconds=6.0",), "idm.minutes": (0.1, 0.3),
    "idm.steps": (3, 4),
    "policy.minutes": (0.2,), "policy.steps": (3, 4), "label": ("windows_per_span=3", "batch=2", "num_films=1"),
    "train_idm": ("optimizer.warmup_steps=1", "data.batch=4", "data.valid_batch=4", "evaluate_every=2"),
    "train_policy": ("optimizer.warmup_steps=1", "data.batch=4", "data.valid_batch=8", "evaluate_every=2"),
}  # fmt: skip


@pytest.mark.slow  # two to four minutes, most of them compiling
def test_the_whole_loop_on_a_small_scale(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    flags = [f"--config.{field}={value}" for field, value in SMALL.items()]
    command = [sys.executable, "launch/pipeline.py", f"--config.workdir={tmp_path}", *flags]

    def run():
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout

    first = run()
    shown = re.findall(r"^\[\d+/(\d+)\] (.*)$", first, re.MULTILINE)
    assert [int(total) for total, _ in shown] == [len(shown)] * len(shown)
    assert sorted(name.split()[0] for _, name in shown) == [*["clone"] * 4, *["label"] * 3, *["prepare"] * 2,
                                                             *["record"] * 2, *["train"] * 2]  # fmt: skip
    claims = re.findall(r"^(?:yes|NO ) .*: .*\d.*$", first, re.MULTILINE)
    assert len(claims) >= 6
    assert first.splitlines()[-1] == f"figures and films: {tmp_path / 'report.html'}"

    page = Page((tmp_path / "report.html").read_text())
    assert sorted(page.text("dt")) == sorted(name for _, name in shown)
    assert all(re.fullmatch(r"\d+ s", taken) for taken in page.text("dd"))
    assert page.text("h2")[0] == "Checked claims"
    assert page.tags.count("video") == 2
    sources = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert all(source.startswith("data:") for source in sources)

    second = run()
    assert not re.search(r"^\[\d+/", second, re.MULTILINE)
    assert re.findall(r"^(?:yes|NO ) .*: .*\d.*$", second, re.MULTILINE) == claims


@pytest.mark.slow  # some minutes, most of them compiling
def test_showcase_on_a_small_scale(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "launch/pipeline.py", "--config=configs/demo.py:showcase,tiny",
               f"--config.workdir={tmp_path}"]  # fmt: skip
    printed = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout
    aims = re.findall(r"^(?:yes|NO ) .*: .*\d.*$", printed, re.MULTILINE)
    assert [aim[4:].split()[0] for aim in aims] == ["Policy:", "IDM:", "Policy:"]
    page = Page((tmp_path / "report.html").read_text())
    assert page.text("h2") == ["Aims", "Films", "Inverse dynamics model", "Policy", "Play", "Time"]
    assert page.tags.count("video") == 4
    assert (tmp_path / "film-held-out.webp").stat().st_size > 1000
