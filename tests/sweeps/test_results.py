"""Results of sweeps: experiments from made-up rows, and what is measured of a run."""

import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from ml_collections import ConfigDict
from sweeps.results import (
    _measure,
    _of_data,
    _write_table,
    describe_fit,
    difference_interval,
    make_experiment,
    mean_interval,
)

from configs.foundation import get_config
from configs.sweeps import hours, null_actions, parameters
from tests.demo.test_loop_report import write_recorded
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.evaluation.baselines import policy_baselines
from vpt_jax.evaluation.power_law import fit_runs
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.checkpoints import jsonable


def test_intervals_are_those_of_students_t():
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2, 2 - 2.484, 2 + 2.484), abs=1e-3)  # 4.303 / sqrt(3)
    assert mean_interval([4.0]) == (4, 4, 4)
    difference, low, high = difference_interval([1.0, 2.0, 3.0], [5.0, 6.0, 7.0])
    assert (difference, low, high) == pytest.approx((-4, -4 - 2.267, -4 + 2.267), abs=1e-3)  # 2.776 * sqrt(2 / 3)
    assert np.isnan(difference_interval([1.0], [2.0, 3.0])[1:]).all()


def hours_rows(exponent, noise=0.01, constant=2.0):
    rng = np.random.default_rng(0)
    return [
        {"run": f"{m:g}-{seed}", "minutes": m, "nll": constant + (m / 10) ** -exponent + noise * rng.normal(),
         "marginal/nll": 6.0 + 0.1 * seed, "repeat/nll": 2.2}
        for m in (75.0, 5.0, 10.0, 20.0, 40.0) for seed in range(3)
    ]  # fmt: skip


def test_a_falling_loss_holds_with_a_fit_within_the_data():
    experiment = make_experiment(hours.get_config(), hours_rows(0.5))
    measured, law = experiment.series
    assert [point.x for point in measured.points] == [5, 10, 20, 40, 75]
    assert all(point.low < point.y < point.high for point in measured.points)
    assert (law.points[0].x, law.points[-1].x) == (5, pytest.approx(75))
    assert experiment.baselines == {"marginal distribution": 6.0, "repeats the last action": 2.2}
    first, second = experiment.verdicts
    assert (first.expectation, first.holds) == (
        "loss on held-out play lower for minutes of pseudo-labelled play 75 than for 5", True,
    )  # fmt: skip
    assert (second.expectation, second.holds) == (
        "loss on held-out play for minutes of pseudo-labelled play 75 better than the baseline: marginal distribution",
        True,
    )
    assert "2.367 against 3.414, difference -1.05" in first.measured
    assert any("b = 0.4" in note or "b = 0.5" in note for note in experiment.notes)
    assert any("says nothing beyond" in note for note in experiment.notes)


def test_the_interval_of_an_exponent_has_its_level():
    """Student's t over the fits of three seeds: 95% of the intervals have the true exponent."""
    rng, x, inside = np.random.default_rng(0), np.geomspace(1, 16, 3), 0
    for _ in range(200):
        fit = fit_runs({place: place**-0.4 * np.exp(0.02 * rng.normal(size=3)) for place in x.tolist()})
        low, high = map(
            float, re.search(r"\((-?[\d.]+) to (-?[\d.]+): 95%", describe_fit(fit, dict.fromkeys(x, ()))).groups()
        )
        inside += low <= 0.4 <= high
    assert 0.91 <= inside / 200 <= 0.99


def test_every_other_varied_value_has_a_curve_with_its_fit_and_verdict():
    config = hours.get_config()
    config.vary.head = ConfigDict({"fields": ("policy.model.head",), "choices": ("joint", "factored")})
    rows = [row | {"head": head} for head, b in (("joint", 0.5), ("factored", 0.0)) for row in hours_rows(b)]
    experiment = make_experiment(config, rows)
    assert [series.name for series in experiment.series] == [
        "head joint", "power law, head joint", "head factored", "power law, head factored"
    ]  # fmt: skip
    alone = make_experiment(hours.get_config(), hours_rows(0.5))
    assert [series.points for series in experiment.series[:2]] == [series.points for series in alone.series]
    assert [(verdict.expectation.partition(":")[0], verdict.holds) for verdict in experiment.verdicts] == [
        ("head joint", True), ("head joint", True), ("head factored", False), ("head factored", True)
    ]  # fmt: skip
    config.report.x, config.report.series = "parameters", ("head",)
    rows = [row | {"parameters": round(1000 * row["minutes"])} for row in rows]
    assert [series.name for series in make_experiment(config, rows).series][::2] == ["head joint", "head factored"]
    config.report.better = ((5000, 7000),)
    with pytest.raises(ConfigError, match=r"config\.report\.better has 7000: choose among 5000\.0, "):
        make_experiment(config, rows)


def test_a_column_of_numbers_and_texts_is_of_texts(tmp_path):
    rows = [{"run": "a", "minutes": 3.0, "steps": 2}, {"run": "b", "minutes": "all"}]
    _write_table(tmp_path / "table.parquet", rows)
    assert pq.read_table(tmp_path / "table.parquet").to_pydict() == {
        "run": ["a", "b"], "minutes": ["3.0", "all"], "steps": [2, None]
    }  # fmt: skip


def test_a_verdict_can_be_no():
    flat, rising = (make_experiment(hours.get_config(), hours_rows(b)).verdicts[0].holds for b in (0.0, -0.3))
    assert (flat, rising) == (False, False)
    poor = make_experiment(hours.get_config(), hours_rows(0.5, constant=6.0))
    assert not poor.verdicts[1].holds
    config = hours.get_config()
    config.seeds = (0,)
    single = make_experiment(config, hours_rows(0.5)[::3])
    assert [verdict.holds for verdict in single.verdicts] == [False, False]
    assert any("One seed" in note for note in single.notes)
    assert [re.search(r"\(one seed\)", verdict.measured) is None for verdict in single.verdicts] == [False, False]


@pytest.mark.parametrize(("keep", "expected"), [(2.0, True), (9.0, False)])
def test_categories_are_compared_where_higher_is_better(keep, expected):
    returns = {"drop": 8.0, "drop_3": 7.0, "drop_21": 6.0, "mask": 5.0, "keep": keep}
    rows = [
        {"run": f"{rule}-{seed}", "rule": rule, "return": value + 0.1 * seed, "random actions/return": 1.0}
        for rule, value in returns.items() for seed in range(3)
    ]  # fmt: skip
    config = null_actions.get_config()
    experiment = make_experiment(config, rows)
    (series,) = experiment.series
    assert [point.x for point in series.points] == list(returns)
    assert [verdict.holds for verdict in experiment.verdicts] == [expected] * len(config.report.better) + [True]
    assert {("drop", "keep"), ("drop_3", "keep"), ("drop_21", "keep")} <= {*config.report.better}
    assert experiment.verdicts[0].expectation == "return higher for rule for null actions drop than for keep"
    assert experiment.baselines == {"random actions": 1.0}


def test_a_metric_that_was_not_measured_is_named():
    with pytest.raises(ConfigError, match=r"config\.report\.metric is 'nll', which the run a has not measured"):
        make_experiment(parameters.get_config(), [{"run": "a", "parameters": 3, "f1/mean": 0.5}])


def test_a_run_is_measured_on_the_test_split_with_its_baselines(dataset_dir, tmp_path):
    data = write_recorded(tmp_path / "data", dataset_dir)
    config = get_config("demo")
    config.model.preset, config.workdir = "nano", str(tmp_path / "run")
    config.data.update(train=str(dataset_dir), valid=str(dataset_dir), test=str(data), batch=4, valid_batch=4)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(jsonable(config)))
    lines = [{"step": 0, "loss": 9}, {"step": 2, "valid/nll": 3, "test/nll": 4, "test/f1/mean": 0.5, "marginal/nll": 1},
             {"step": 4, "valid/nll": 5, "test/nll": 2}]  # fmt: skip
    (tmp_path / "run" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    measured = _measure(hours.get_config(), None, tmp_path / "run", tmp_path / "cache")
    assert {name: measured[name] for name in ("step", "nll", "f1/mean")} == {"step": 2, "nll": 4, "f1/mean": 0.5}
    splits = {"train": dataset_dir, "test": data}
    streams = [Stream(StreamSettings(str(folder), split, 1, 1)) for split, folder in splits.items()]
    baselines = policy_baselines(*streams)
    assert measured["marginal/nll"] == pytest.approx(baselines["marginal"]["nll"])
    assert measured["repeat/nll"] == pytest.approx(baselines["repeat"]["nll"])
    assert measured["parameters"] > 100_000
    assert json.loads((tmp_path / "cache" / "run.json").read_text()).items() <= measured.items()
    config.data.test = ""
    (tmp_path / "run" / "config.json").write_text(json.dumps(jsonable(config)))
    with pytest.raises(ConfigError, match=r"was trained without data\.test"):
        _of_data(tmp_path / "run")
    again = _measure(hours.get_config(), None, tmp_path / "run", tmp_path / "cache")  # reads the data once
    assert again == measured
