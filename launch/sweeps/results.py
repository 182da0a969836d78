"""Results of a sweep: a table with a row for each run, an `Experiment` with intervals over seeds, and its page."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from demo.stages import results_folder
from ml_collections import ConfigDict
from scipy import stats

from sweeps.plan import Plan, Run, label
from vpt_jax.evaluation.power_law import PowerLawFit, fit_runs
from vpt_jax.evaluation.resampling import Figure
from vpt_jax.programs.evaluate import RANDOM
from vpt_jax.programs.supervised import count_parameters, open_data
from vpt_jax.report.experiments import (
    Experiment,
    Point,
    Series,
    Verdict,
    read_experiment,
    write_experiment,
    write_experiments_page,
)
from vpt_jax.system.atomic_files import atomic_write
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.workers import locked
from vpt_jax.training.metrics_log import best_evaluation
from vpt_jax.training.setup import make_objective
from vpt_jax.training.stages import head_statistics

_LEVEL = 0.95  # of all intervals
_CURVE_POINTS = 40  # of a fit

Row = dict[str, Any]  # of the table: `run`, the varied names, `seed`, `seconds` and the metrics
Groups = Mapping[float | str, Sequence[float]]  # metric of the runs, by their place on the x axis


def write_results(config: ConfigDict, plan: Plan, seconds: Mapping[str, float]) -> Path | None:
    """Write the table of the finished runs and, once all are finished, the experiment and its page.

    Args:
        config: of the sweep.
        plan: its runs.
        seconds: duration of each finished stage, by name.

    Returns:
        The page, or None if some runs are not finished.
    """
    folder = Path(config.workdir).resolve() / config.name
    with locked(folder, wait=True):  # so that of several processes, the last one writes the table of all
        rows = [*_rows(config, plan, seconds)]
        if rows:
            _write_table(folder / "table.parquet", rows)
        if len(rows) < len(plan.runs):
            return None
        experiment = _written(config, plan) if config.report.file else make_experiment(config, rows)
        write_experiment(results_folder(config) / f"{config.name}.json", experiment)
        page = folder / "report.html"
        write_experiments_page(page, experiment.title, [experiment])
    return page


def _rows(config: ConfigDict, plan: Plan, seconds: Mapping[str, float]) -> Iterator[Row]:
    for run in plan.runs:
        workdir = run.folders[config.report.stage]
        if workdir.name in seconds and seconds.keys() >= run.stages:
            own = [name for name in run.stages if sum(name in other.stages for other in plan.runs) == 1]
            measured = _measure(config, run, workdir)
            yield {"run": run.name, **run.values, "seed": run.seed, "seconds": sum(map(seconds.get, own))} | measured


def _measure(config: ConfigDict, run: Run, folder: Path) -> dict[str, float]:
    """Metrics of a run; those of baselines are called `BASELINE/METRIC`."""
    if config.stages[config.report.stage].program == "evaluate":
        figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        return figures[run.name] | {f"{RANDOM} actions/{name}": value for name, value in figures[RANDOM].items()}
    if config.report.file:
        return {}  # the program has written the result
    line = best_evaluation(folder)
    metrics = {name.removeprefix("test/"): value for name, value in line.items() if name.startswith("test/")}
    return {"step": line["step"]} | metrics | _of_data(folder)


def _of_data(workdir: Path) -> dict[str, float]:
    """Number of a trained model's parameters, and metrics of the baselines on the split `test`."""
    config = ConfigDict(json.loads((workdir / "config.json").read_text(encoding="utf-8")))
    data = open_data(config)
    if data.test is None:
        raise ConfigError(f"{workdir} was trained without data.test, a dataset with the split `test`: set it")
    train = data.train
    objective = make_objective(config, train.frame_shape, None, train.space)
    parameters = count_parameters(jax.eval_shape(objective.init, jax.random.key(0)))
    baselines = head_statistics(config).baselines(train, data.test)
    named = {f"{name}/{metric}": value for name, figures in baselines.items() for metric, value in figures.items()}
    return {"parameters": parameters} | named


def _write_table(file: Path, rows: Sequence[Row]) -> None:
    names = dict.fromkeys(name for row in rows for name in row)
    with atomic_write(file) as temporary:
        pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), temporary)


def make_experiment(config: ConfigDict, rows: Sequence[Row]) -> Experiment:
    """The experiment of `config.report` from the rows of all runs."""
    report = config.report
    if missing := [row["run"] for row in rows if report.metric not in row]:
        raise ConfigError(f"config.report.metric is {report.metric!r}, which the run {missing[0]} has not measured")
    groups: dict[float | str, list[float]] = {}
    for row in rows:
        place = row[report.x]
        numeric = isinstance(place, int | float) and not isinstance(place, bool)
        groups.setdefault(float(place) if numeric else label(place), []).append(row[report.metric])
    if all(isinstance(place, float) for place in groups):
        groups = dict(sorted(groups.items()))
    points = tuple(Point(place, *mean_interval(values)) for place, values in groups.items())
    series, notes = [Series("measured", points)], [*report.notes, _note(config)]
    numbers = {place: values for place, values in groups.items() if isinstance(place, float)}
    if report.log_x and len(numbers) == len(groups) and (fit := fit_runs(numbers)) is not None:
        series.append(_fitted(fit, numbers))
        notes.append(describe_fit(fit, numbers))
    baselines = _baselines(report, rows)
    return Experiment(
        title=report.title, claim=report.claim, source=report.source, x_label=report.x_label, y_label=report.y_label,
        series=tuple(series), baselines=baselines, verdicts=tuple(_verdicts(report, groups, baselines)),
        notes=tuple(notes), log_x=report.log_x,
    )  # fmt: skip


def _baselines(report: ConfigDict, rows: Sequence[Row]) -> dict[str, float]:
    """The best value of each baseline over the runs: their data may differ."""
    suffix, best = f"/{report.metric}", max if report.higher_is_better else min
    names = dict.fromkeys(name for row in rows for name in row if name.endswith(suffix))
    return {name.removesuffix(suffix): best(row[name] for row in rows if name in row) for name in names}


def _note(config: ConfigDict) -> str:
    count = len(config.seeds)
    text = f"Means over {count} seeds" if count > 1 else "One seed, so there are no intervals and no verdict can hold"
    if count > 1:
        text += (
            f", with {_LEVEL:.0%} intervals (Student's t), which are of the seeds alone and not of the held-out play"
        )
    if config.stages[config.report.stage].program == "train":
        text += ". Each run is measured on the split `test`, at the step with the lowest loss on the split `valid`"
    return text + "."


def mean_interval(values: Sequence[float]) -> Figure:
    """Mean of the runs with its interval by Student's t; of one run, the value itself."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return Figure(mean, mean, mean)
    half = float(stats.t.ppf((1 + _LEVEL) / 2, len(values) - 1) * stats.sem(values))
    return Figure(mean, mean - half, mean + half)


def difference_interval(one: Sequence[float], other: Sequence[float]) -> Figure:
    """Difference of two means with its interval by Welch's t; NaN limits if either has one run."""
    difference = float(np.mean(one) - np.mean(other))
    if min(len(one), len(other)) < 2:
        return Figure(difference, float("nan"), float("nan"))
    low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval(_LEVEL)
    return Figure(difference, float(low), float(high))


def _verdicts(report: ConfigDict, groups: Groups, baselines: Mapping[str, float]) -> Iterator[Verdict]:
    sign, places = 1 if report.higher_is_better else -1, list(groups)
    word = "higher" if report.higher_is_better else "lower"
    for better, worse in report.better or ((places[-1], places[0]),):
        figure = difference_interval(groups[better], groups[worse])
        measured = (
            f"{np.mean(groups[better]):.4g} against {np.mean(groups[worse]):.4g}, "
            f"difference {figure.value:+.3g} ({figure.low:+.3g} to {figure.high:+.3g})"
        )
        holds = sign * figure.low > 0 and sign * figure.high > 0
        names = (place if isinstance(place, str) else f"{place:,g}" for place in (better, worse))
        yield Verdict(f"{report.metric} {word} for {report.x_label} {' than for '.join(names)}", measured, holds)
    best_place = max(places, key=lambda place: sign * np.mean(groups[place]))
    best = mean_interval(groups[best_place])
    for name, value in [*baselines.items()][:1]:
        holds = len(groups[best_place]) > 1 and sign * (best.low - value) > 0 and sign * (best.high - value) > 0
        measured = f"{best.value:.4g} ({best.low:.4g} to {best.high:.4g}) against {value:.4g}"
        yield Verdict(f"Best {report.metric} better than the baseline: {name}", measured, holds)


def _fitted(fit: PowerLawFit, groups: Mapping[float, Sequence[float]]) -> Series:
    """The fitted curve between the smallest and the largest x."""
    x = np.geomspace(min(groups), max(groups), _CURVE_POINTS)
    curve = zip(x.tolist(), fit.law.at(x).tolist(), fit.interval_at(x), strict=True)
    return Series("power law", tuple(Point(place, y, *limits) for place, y, limits in curve))


def describe_fit(fit: PowerLawFit, groups: Mapping[float, Sequence[float]]) -> str:
    """A sentence with the fitted law."""
    law, (low, high) = fit.law, fit.exponent
    constant = f" + {law.constant:.3g}" if law.constant else ""
    return (
        f"Fit: y = {law.scale:.3g} (x / {law.centre:.3g})^-b{constant} with b = {law.exponent:.3g} ({low:.3g} to "
        f"{high:.3g}: {_LEVEL:.0%} of a bootstrap of the runs at each x, which is narrow for few seeds). It is drawn "
        f"from x = {min(groups):.3g} to {max(groups):.3g}, where the runs are, and says nothing beyond."
    )


def _written(config: ConfigDict, plan: Plan) -> Experiment:
    """The experiment that a stage of the only run has written."""
    (run,) = plan.runs
    file = run.folders[config.report.stage] / config.report.file
    if not file.exists():
        raise ConfigError(
            f"config.report.file is {config.report.file!r}, which the stage {file.parent.name} has not written; its "
            f"logs are in {file.parent}"
        )
    return read_experiment(file)
