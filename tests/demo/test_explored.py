"""Scripted against explored play: what each model may see, results from synthetic scores, and a small run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from demo.explored_report import Runs, make_experiments

from configs.explored import get_config
from launch import explored
from vpt_jax.data.dataset import open_records, write_metadata
from vpt_jax.report.experiments import read_experiment, verdict_lines

ROOT = Path(__file__).parents[2]


def test_no_model_of_explored_play_depends_on_actions_of_the_demonstrations(tmp_path):
    config = get_config()
    config.rounds = 3
    by_name = {stage.name: stage for stage in explored.stages(config, tmp_path)}
    scripted = str(tmp_path / "seed-0" / "data" / "scripted")
    for name, stage in by_name.items():
        assert all([*by_name].index(needed) < [*by_name].index(name) for needed in stage.depends_on)
        training_data = [flag for flag in stage.command if flag.startswith("--config.data.train=")]
        if "scripted: train" not in name:
            assert f"--config.data.train={scripted}" not in training_data
    assert "seed 0, round-2: play" in by_name["seed 0, round-2: prepare"].depends_on
    labels = by_name["seed 0, round-3: label the demonstrations for"]
    assert labels.depends_on == ("seed 0, round-2: train an inverse dynamics model on 12 minutes",)
    assert f"--config.idm={tmp_path / 'seed-0' / 'idm-round-2-12'}" in labels.command
    assert "--config.aspect=(1, 1)" in labels.command  # that of the recorded pictures: nothing is cropped or padded


def test_players_and_seeds_differ_in_nothing_but_their_play(tmp_path):
    """Also not in the size of the pictures, nor in the held-out episodes."""
    stages = {stage.name: " ".join(stage.command) for stage in explored.stages(get_config(), tmp_path)}
    for name in ("scripted: record", "random: record", "round-2: play"):
        assert re.search(r"height=16 .*width=16( |$)", stages[f"seed 1, {name}"])
    for seed, first in ((0, 0), (1, 10_000)):
        command = stages[f"seed {seed}, scripted: record"]
        assert f"splits.train.seed={first} " in command
        assert "splits.test.seed=3000000 " in command


@pytest.mark.parametrize(
    ("field", "value"),
    [("rounds", 0), ("seeds", (1, 1)), ("idm.steps", (1,)), ("idm.minutes", (16.0, 4.0)), ("idm.minutes", (4.0, 21.0))],
)
def test_inconsistent_settings_are_refused_at_once(tmp_path, field, value):
    config = get_config()
    config.workdir = str(tmp_path)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(explored.ConfigError, match=f"config.{field.partition('.')[0]}"):
        explored.run(config)


SCORES = {  # nats per frame, share of right frames and R2 at the most minutes, for each seed
    "scripted": ((1.0, 0.8, 0.9), (1.2, 0.82, 0.8)),
    "random": ((3.0, 0.7, 0.85), (2.5, 0.6, 0.7)),
    "round-1": ((2.0, 0.75, 0.95), (1.25, 0.81, 0.9)),
}


def with_test_split(folder, dataset_dir):
    """A dataset with the splits of another, and `test`, which is equal to `valid`."""
    shutil.copytree(dataset_dir, folder)
    shutil.copytree(folder / "index" / "valid", folder / "index" / "test")
    for shard in [*folder.glob("*-valid.*")]:
        shutil.copy(shard, folder / shard.name.replace("-valid.", "-test."))
    sources = {"train": "train", "valid": "valid", "test": "valid"}
    write_metadata(folder, {split: open_records(dataset_dir, source).lengths for split, source in sources.items()})
    return folder


@pytest.fixture(scope="module")
def results(dataset_dir, tmp_path_factory):
    """Experiments by name, of two seeds with known scores, each with intervals of ± 0.1."""
    folder, repetitions = tmp_path_factory.mktemp("explored"), []
    recorded = with_test_split(folder / "recorded", dataset_dir)
    for seed in range(2):
        idms = {}
        for source, scores in SCORES.items():
            idms[source] = {minutes: folder / f"{seed}-{source}-{minutes:g}" for minutes in (1.0, 4.0)}
            for minutes, workdir in idms[source].items():
                figures = dict(zip(("nll", "key_exact", "mouse_r2/yaw"), scores[seed], strict=True))
                metrics = {
                    name: {"value": value * minutes / 4, "low": value - 0.1, "high": value + 0.1}
                    for name, value in figures.items()
                }
                (workdir / "score").mkdir(parents=True)
                (workdir / "score" / "score.json").write_text(json.dumps({"metrics": metrics}))
        playing = folder / f"playing-{seed}"
        playing.mkdir()
        figures = {agent: {"return": 2.0 + seed, "return_error": 0.25} for agent in ("round-1", "random")}
        (playing / "figures.json").write_text(json.dumps(figures))
        repetitions.append(Runs(dict.fromkeys(SCORES, recorded), idms, playing))
    return make_experiments(repetitions, "level E1M5")


def test_points_are_means_with_the_intervals_of_all_seeds(results):
    loss = results["explored_loss"]
    assert [series.name.partition(" ")[0] for series in loss.series] == ["scripted", "random", "cloned"]
    assert loss.series[0].points[1] == (4.0, pytest.approx(1.1), pytest.approx(0.9), pytest.approx(1.3))
    assert loss.series[1].points[0] == (1.0, pytest.approx(2.75 / 4), pytest.approx(2.4), pytest.approx(3.1))
    assert any("round-1 2.00 ± 0.25, 3.00 ± 0.25; random" in note for note in loss.notes)


def test_verdicts_hold_only_where_intervals_are_apart(results):
    assert {name: [verdict.holds for verdict in one.verdicts[1:]] for name, one in results.items()} == {
        "explored_loss": [True, False, True],  # 1.15 to 2.1 overlaps with 0.9 to 1.3
        "explored_keys": [False, False, False],
        "explored_mouse": [False, False, False],
    }
    lines = verdict_lines(results["explored_loss"].verdicts, results["explored_loss"].title)
    assert [line[:4] for line in lines[1:]] == ["yes ", "NO  ", "yes "]


def test_baselines_see_the_same_play(results):
    for experiment in results.values():
        assert all(value == value for value in experiment.baselines.values())
    assert len(results["explored_loss"].baselines) == 3
    assert len(results["explored_keys"].baselines) == 2


@pytest.mark.slow  # several minutes, most of them compiling
def test_the_comparison_on_a_small_scale(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable,
        "launch/explored.py",
        "--config=configs/explored.py:small",
        f"--config.workdir={tmp_path}",
    ]

    def run():
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout

    first = run()
    assert len(re.findall(r"^\[\d+/14\] seed 0, ", first, re.MULTILINE)) == 14
    verdicts = re.findall(r"^(?:yes|NO ) .*: .*\d.*$", first, re.MULTILINE)
    assert len(verdicts) == 12
    experiment = read_experiment(tmp_path / "results" / "explored_keys.json")
    assert [len(series.points) for series in experiment.series] == [1, 1, 1]
    assert experiment.series[0].points[0].x == 0.1

    second = run()
    assert not re.search(r"^\[\d+/", second, re.MULTILINE)
    assert re.findall(r"^(?:yes|NO ) .*: .*\d.*$", second, re.MULTILINE) == verdicts
