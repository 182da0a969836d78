"""Tests of the files with results of experiments."""

from pathlib import Path

from vpt_jax.report.experiments import Experiment, Point, Series, Verdict, read_experiment, write_experiment


def test_an_experiment_is_read_as_it_was_written(tmp_path: Path) -> None:
    experiment = Experiment(
        title="Steering",
        claim="Text steers the policy.",
        source="appendix I, from memory",
        x_label="caption",
        y_label="doors opened",
        series=(Series("asked", (Point("open the door", 1.5, 1.0, 2.0), Point(3.0, 0.5, 0.25, 0.75))),),
        baselines={"random": 0.1},
        verdicts=(Verdict("more when asked", "1.5 against 0.5", False),),
        notes=("one seed",),
    )
    write_experiment(tmp_path / "steering.json", experiment)
    assert read_experiment(tmp_path / "steering.json") == experiment
