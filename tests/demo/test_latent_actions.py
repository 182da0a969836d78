"""Latent actions against an IDM as one command: what its stages may read, its results, and a small run of all of it."""

import os
import subprocess
import sys

import pytest
from demo.latent_report import _better

from configs.latent_demo import get_config
from launch import latent_actions
from tests.programs import ROOT
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.evaluation.baselines import idm_baselines
from vpt_jax.evaluation.resampling import Figure
from vpt_jax.report.experiments import read_experiment
from vpt_jax.system.errors import ConfigError


def test_both_models_get_the_same_labels_and_no_other(tmp_path):
    config = get_config()
    by_name = {
        stage.name: stage for stage in latent_actions.stages(config, tmp_path, latent_actions.runs_of(config, tmp_path))
    }
    unlabelled = str(tmp_path / "data" / "unlabelled")
    readers = [name for name, stage in by_name.items() if f"--config.data.train={unlabelled}" in stage.command]
    assert readers == ["learn latent actions from the unlabelled frames"]
    assert all(needed in by_name for stage in by_name.values() for needed in stage.depends_on)
    for minutes in config.minutes:
        one, other = (
            {word for word in by_name[f"train {name} on {minutes:g} minutes"].command if "workdir" not in word}
            for name in latent_actions.CONFIGS
        )
        assert {word.split("=")[0] for word in one ^ other} == {"--config", "--config.init_from"}


@pytest.mark.parametrize(("field", "value"), [("max_parallel", 0), ("steps", (1, 2)), ("held_out", 0)])
def test_inconsistent_settings_are_refused_at_once(tmp_path, field, value):
    config = get_config()
    config.update({"workdir": str(tmp_path), field: value})
    with pytest.raises(ConfigError, match=f"config.{field} is "):
        latent_actions.run(config)


def test_a_difference_within_its_interval_has_no_winner():
    assert _better(Figure(0.1, -0.1, 0.3), more=True) == "no difference beyond the interval"
    assert _better(Figure(0.2, 0.1, 0.3), more=True) == "latent actions better"
    assert _better(Figure(0.2, 0.1, 0.3), more=False) == "inverse dynamics better"
    assert _better(Figure(-0.2, -0.3, -0.1), more=False) == "latent actions better"


def _marginal_loss(folder):
    """The loss that a training run computes for the marginal distribution."""
    train, test = (
        Stream(StreamSettings(str(folder / "data" / "labelled"), split, 1, 1, "keep", shuffle=False))
        for split in ("train", "test")
    )
    return idm_baselines(train, test)["released"]["nll"]


@pytest.mark.slow  # three to five minutes, most of them compiling
def test_the_whole_experiment_on_a_small_scale(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable, "launch/latent_actions.py", "--config=configs/latent_demo.py:small",
        f"--config.workdir={tmp_path}",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    experiments = {file.stem: read_experiment(file) for file in (tmp_path / "results").glob("*.json")}
    assert set(experiments) == {
        "latent-frames", "latent-policies", "latent-nll", "latent-key_nll", "latent-f1-mean", "latent-mouse_r2-pitch",
        "latent-mouse_r2-yaw"
    }  # fmt: skip
    for experiment in experiments.values():
        assert experiment.baselines
        assert experiment.verdicts
        assert all(low <= y <= high for series in experiment.series for _, y, low, high in series.points)
        assert experiment.title in done.stdout
    labels = experiments["latent-nll"]
    assert {series.name: [point.x for point in series.points] for series in labels.series} == {
        name: [0.1, 0.3] for name in latent_actions.CONFIGS
    }
    assert sum("latent actions minus inverse dynamics" in note for note in labels.notes) == 2
    assert [verdict.expectation for verdict in labels.verdicts] == [
        f"Labels of {name}, {minutes:g} minutes, are better than the marginal distribution"
        for name in latent_actions.CONFIGS for minutes in (0.1, 0.3)
    ]  # fmt: skip
    marginal, of_keys = (
        experiment.baselines["the marginal distribution"] for experiment in (labels, experiments["latent-key_nll"])
    )
    assert marginal == pytest.approx(_marginal_loss(tmp_path))
    assert 0 < of_keys < marginal
    assert "<svg" in (tmp_path / "results" / "latent.html").read_text()
