"""Results of a sweep: a table with a row for each run, an `Experiment` with intervals over seeds, and its page."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from demo.stages import results_folder
from ml_collections import ConfigDict
from scipy import stats

from sweeps.plan import Plan, Run, is_number, label
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
from vpt_jax.system.atomic_files import atomic_write, read_json, write_text
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.workers import locked
from vpt_jax.training.metrics_log import best_evaluation
from vpt_jax.training.setup import make_objective
from vpt_jax.training.stages import head_statistics

_LEVEL = 0.95  # of all intervals
_CURVE_POINTS = 40  # of a fit
_REPEAT = "repeats the last action"
# Titles of the baselines of vpt_jax/evaluation/baselines.py.
_BASELINES = {"marginal": "marginal distribution", "released": "all released, no movement", "repeat": _REPEAT}

Row = dict[str, Any]  # of the table: `run`, the varied names, `seed`, `seconds`, the varied fields and the metrics
Groups = Mapping[float | str, Sequence[float]]  # metric of the runs, by their place on the x axis


def write_results(config: ConfigDict, plan: Plan, finished: Callable[[], Mapping[str, float]]) -> Path | None:
    """Write the table of the finished runs and, once all are finished, the experiment and its page.

    Args:
        config: of the sweep.
        plan: its runs.
        finished: returns the duration of each finished stage, by name.

    Returns:
        The page, or None if some runs are not finished.
    """
    folder = Path(config.workdir).resolve() / config.name
    with locked(folder, wait=True):
        seconds = finished()  # under the lock: of several processes, the last to write has then seen the runs of all
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
    """Rows of the finished runs."""
    cache = Path(config.workdir).resolve() / config.name / "baselines"
    listed = [name for axis in config.vary.values() if len(axis.fields) > 1 for name in axis.fields]
    for run in plan.runs:
        workdir = run.folders[config.report.stage]
        if workdir.name in seconds and seconds.keys() >= run.stages:
            own = [name for name in run.stages if sum(name in other.stages for other in plan.runs) == 1]
            row = {"seed": run.seed, "seconds": sum(seconds[name] for name in own)}
            row |= _measure(config, run, workdir, cache)
            if taken := sorted({"run", *row} & run.values.keys()):
                raise ConfigError(
                    f"config.vary has the name {taken[0]!r}, which is also a column of the results: rename it"
                )
            yield {"run": run.name} | run.values | row | {name: run.settings[name] for name in listed}


def _measure(config: ConfigDict, run: Run, folder: Path, cache: Path) -> dict[str, float]:
    """Metrics of a run; those of baselines are called `BASELINE/METRIC`.

    Args:
        config: of the sweep.
        run: the run.
        folder: output folder of its measured stage.
        cache: folder of the baselines, which are computed once: they need all of the run's data.
    """
    if config.stages[config.report.stage].program == "evaluate":
        figures = json.loads((folder / "figures.json").read_text(encoding="utf-8"))
        return figures[run.name] | {f"{RANDOM} actions/{name}": value for name, value in figures[RANDOM].items()}
    if config.report.file:
        return {}  # the program has written the result
    line = best_evaluation(folder)
    metrics = {name.removeprefix("test/"): value for name, value in line.items() if name.startswith("test/")}
    return {"step": line["step"]} | metrics | _cached(cache / f"{folder.name}.json", lambda: _of_data(folder))


def _cached(file: Path, compute: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Content of the file, or else the computed values, which are written to it."""
    if (found := read_json(file)) is None:
        file.parent.mkdir(exist_ok=True)
        write_text(file, json.dumps(found := compute()) + "\n")
    return found


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
        pq.write_table(pa.table({name: _column([row.get(name) for row in rows]) for name in names}), temporary)


def _column(values: Sequence[Any]) -> pa.Array:
    """A column of a table: values of several kinds, such as 3 and "all", are texts."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values])


def make_experiment(config: ConfigDict, rows: Sequence[Row]) -> Experiment:
    """The experiment of `config.report` from the rows of all runs."""
    report = config.report
    if missing := [row["run"] for row in rows if report.metric not in row]:
        raise ConfigError(f"config.report.metric is {report.metric!r}, which the run {missing[0]} has not measured")
    curves = _curves(config, rows)
    series, notes = [], [*report.notes, _note(config)]
    for name, groups in curves.items():
        points = tuple(Point(place, *mean_interval(values)) for place, values in groups.items())
        series.append(Series(name or "measured", points))
        numbers = {place: values for place, values in groups.items() if isinstance(place, float)}
        if report.log_x and len(numbers) == len(groups) and (fit := fit_runs(numbers)) is not None:
            title = f"power law, {name}" if name else "power law"
            series.append(_fitted(title, fit, numbers))
            notes.append(f"{title[0].upper()}{title[1:]}: {describe_fit(fit, numbers)}")
    baselines = _baselines(report, rows)
    if _REPEAT in baselines:
        notes.append(f"The baseline {_REPEAT!r} is given the true one, which no model here sees.")
    return Experiment(
        title=report.title, claim=report.claim, source=report.source, x_label=report.x_label, y_label=report.y_label,
        series=tuple(series), baselines=baselines, verdicts=tuple(_verdicts(report, curves, baselines)),
        notes=tuple(notes), log_x=report.log_x,
    )  # fmt: skip


def _curves(config: ConfigDict, rows: Sequence[Row]) -> dict[str, Groups]:
    """Metric of the runs by curve, whose name has the values that its runs share, and by place on the x axis."""
    report = config.report
    others = [name for name in config.vary if name != report.x and report.x in config.vary]
    curves: dict[str, dict[float | str, list[float]]] = {}
    for row in rows:
        name = ", ".join(f"{other} {row[other]}" for other in report.series or others)
        place = float(row[report.x]) if is_number(row[report.x]) else label(row[report.x])
        curves.setdefault(name, {}).setdefault(place, []).append(row[report.metric])
    return {name: _in_order(groups) for name, groups in curves.items()}


def _in_order(groups: Groups) -> Groups:
    numeric = all(isinstance(place, float) for place in groups)
    return dict(sorted(groups.items())) if numeric else groups


def _baselines(report: ConfigDict, rows: Sequence[Row]) -> dict[str, float]:
    """The best value of each baseline over the runs: their data may differ."""
    suffix, best = f"/{report.metric}", max if report.higher_is_better else min
    names = dict.fromkeys(name for row in rows for name in row if name.endswith(suffix))
    titles = _BASELINES | ({"released": _BASELINES["marginal"]} if report.metric == "nll" else {})
    values = {name.removesuffix(suffix): best(row[name] for row in rows if name in row) for name in names}
    return {titles.get(name, name): value for name, value in values.items()}


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
    return _around(float(np.mean(values)), values)


def _around(value: float, of_seeds: Sequence[float]) -> Figure:
    """A value with the half-width of the interval of the seeds' mean; of one seed, the value itself."""
    if len(of_seeds) < 2:
        return Figure(value, value, value)
    half = float(stats.t.ppf((1 + _LEVEL) / 2, len(of_seeds) - 1) * stats.sem(of_seeds))
    return Figure(value, value - half, value + half)


def difference_interval(one: Sequence[float], other: Sequence[float]) -> Figure:
    """Difference of two means with its interval by Welch's t; NaN limits if either has one run."""
    difference = float(np.mean(one) - np.mean(other))
    if min(len(one), len(other)) < 2:
        return Figure(difference, float("nan"), float("nan"))
    low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval(_LEVEL)
    return Figure(difference, float(low), float(high))


def _verdicts(report: ConfigDict, curves: Mapping[str, Groups], baselines: Mapping[str, float]) -> Iterator[Verdict]:
    for name, groups in curves.items():
        pairs = report.better or ((list(groups)[-1], next(iter(groups))),)
        if missing := [place for pair in pairs for place in pair if place not in groups]:
            raise ConfigError(f"config.report.better has {missing[0]!r}: choose among {', '.join(map(str, groups))}")
        for better, worse in pairs if len(groups) > 1 else ():
            yield _comparison(report, name, groups, better, worse)
        # The baseline that sees no action: a policy does not see the last one either.
        for baseline, value in [*baselines.items()][:1]:
            yield _against_baseline(report, name, groups, pairs[0][0], baseline, value)


def _against_baseline(
    report: ConfigDict, name: str, groups: Groups, place: float | str, baseline: str, value: float
) -> Verdict:
    """Verdict on the place that was expected to be better: the best of several would be so by chance as well."""
    sign, runs = (1 if report.higher_is_better else -1), groups[place]
    figure = mean_interval(runs)
    holds = len(runs) > 1 and sign * (figure.low - value) > 0 and sign * (figure.high - value) > 0
    interval = f"{figure.low:.4g} to {figure.high:.4g}" if len(runs) > 1 else "one seed"
    expectation = f"{_title(report)} for {report.x_label} {_place(place)} better than the baseline: {baseline}"
    measured = f"{figure.value:.4g} ({interval}) against {value:.4g}"
    return Verdict(f"{name}: {expectation}" if name else expectation, measured, holds)


def _comparison(report: ConfigDict, name: str, groups: Groups, better: float | str, worse: float | str) -> Verdict:
    """Verdict on two places of a curve."""
    sign, word = (1, "higher") if report.higher_is_better else (-1, "lower")
    figure = difference_interval(groups[better], groups[worse])
    interval = "one seed" if np.isnan(figure.low) else f"{figure.low:+.3g} to {figure.high:+.3g}"
    means = " against ".join(f"{np.mean(groups[place]):.4g}" for place in (better, worse))
    holds = sign * figure.low > 0 and sign * figure.high > 0
    places = " than for ".join(map(_place, (better, worse)))
    expectation = f"{_title(report)} {word} for {report.x_label} {places}"
    measured = f"{means}, difference {figure.value:+.3g} ({interval})"
    return Verdict(f"{name}: {expectation}" if name else expectation, measured, holds)


def _place(place: float | str) -> str:
    return place if isinstance(place, str) else f"{place:,.10g}"


def _title(report: ConfigDict) -> str:
    """Name of the metric: the label of its axis without the unit."""
    return (report.y_label or report.metric).partition(",")[0]


def _fitted(title: str, fit: PowerLawFit, groups: Mapping[float, Sequence[float]]) -> Series:
    """The fitted curve between the smallest and the largest x."""
    x = np.geomspace(min(groups), max(groups), _CURVE_POINTS)
    of_seeds = np.stack([law.at(x) for law in fit.by_seed], axis=1)
    points = zip(x.tolist(), fit.law.at(x).tolist(), of_seeds.tolist(), strict=True)
    return Series(title, tuple(Point(place, *_around(y, values)) for place, y, values in points), fitted=True)


def describe_fit(fit: PowerLawFit, groups: Mapping[float, Sequence[float]]) -> str:
    """A sentence with the fitted law."""
    law = fit.law
    constant = f" + {law.constant:.3g}" if law.constant else ""
    _, low, high = _around(law.exponent, [one.exponent for one in fit.by_seed])
    interval = f"{low:.3g} to {high:.3g}: {_LEVEL:.0%}, Student's t over fits to the runs of each seed"
    return (
        f"y = {law.scale:.3g} (x / {law.centre:.3g})^-b{constant} with b = {law.exponent:.3g} "
        f"({interval if len(fit.by_seed) > 1 else 'one seed, so without an interval'}). It is drawn from "
        f"x = {min(groups):.3g} to {max(groups):.3g}, where the runs are, and says nothing beyond."
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
