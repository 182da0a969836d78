"""Results of experiments as files: what was measured, the paper's claim beside it, and a verdict that can be NO.

Every experiment writes one such file, whatever program ran it, and one page is drawn from all of them.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vpt_jax.report.page import Line, curve, grid, page, paragraph, section, table
from vpt_jax.system.atomic_files import write_text

_VERDICT_COLUMNS = ["Expectation", "Measured", "Holds"]
_COLOURS = ("model", "train", "repeat", "trivial")


class Point(NamedTuple):
    """A measured value with its interval, which spans 95% unless the experiment's notes say otherwise."""

    x: float | str  # a quantity, or the name of a category
    y: float
    low: float
    high: float


class Series(NamedTuple):
    """Points that a curve joins, or the bars of one colour."""

    name: str
    points: tuple[Point, ...]
    fitted: bool = False  # to the series before it: drawn dashed, and not in the table of values


class Verdict(NamedTuple):
    """An expectation that was stated before the measurement, and whether it holds."""

    expectation: str
    measured: str  # the values that decide
    holds: bool


class Experiment(NamedTuple):
    """Result of an experiment."""

    title: str
    claim: str  # of the paper, in a sentence
    source: str  # of the claim: section or figure of the paper, and how far it is trusted
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    baselines: Mapping[str, float]  # values of y by name: predictors or players that need no learning
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...] = ()  # what a reader has to know: sizes, seeds, kind of the intervals
    log_x: bool = False


def write_experiment(file: Path, experiment: Experiment) -> None:
    """Write the result of an experiment as JSON, atomically."""
    fields = experiment._asdict() | {
        "series": [one._asdict() | {"points": [point._asdict() for point in one.points]} for one in experiment.series],
        "baselines": dict(experiment.baselines),
        "verdicts": [verdict._asdict() for verdict in experiment.verdicts],
    }
    write_text(file, json.dumps(fields, indent=1) + "\n")


def read_experiment(file: Path) -> Experiment:
    """Read the result of an experiment that `write_experiment` wrote."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    series = (
        Series(**one | {"points": tuple(Point(**point) for point in one["points"])}) for one in fields.pop("series")
    )
    verdicts = (Verdict(**one) for one in fields.pop("verdicts"))
    notes = tuple(fields.pop("notes"))
    return Experiment(series=tuple(series), verdicts=tuple(verdicts), notes=notes, **fields)


def write_experiments_page(file: Path, title: str, experiments: Sequence[Experiment]) -> None:
    """Write a page of experiments, atomically: all verdicts, then each experiment's claim, chart, values and notes.

    Of a single experiment, the verdicts are with the rest.
    """
    verdicts = [(experiment.title, *_verdict_row(one)) for experiment in experiments for one in experiment.verdicts]
    held = sum(one.holds for experiment in experiments for one in experiment.verdicts)
    heading = f"Verdicts: {held} of {len(verdicts)} expectations hold"
    if len(experiments) == 1:
        sections = [_experiment_section(experiments[0], heading)]
    else:
        summary = section(heading, table(["Experiment", *_VERDICT_COLUMNS], verdicts))
        sections = [summary, *(_experiment_section(one, one.title) for one in experiments)]
    write_text(file, page(title, sections))


def verdict_lines(verdicts: Iterable[Verdict], title: str = "") -> list[str]:
    """The verdicts as lines of text, which begin with `yes` or `NO`, and then the title."""
    start = f"{title}: " if title else ""
    return [
        f"{holds:<4}{start}{expectation}: {measured}" for expectation, measured, holds in map(_verdict_row, verdicts)
    ]


def verdict_table(verdicts: Iterable[Verdict]) -> str:
    """The verdicts as a table of a page."""
    return table(_VERDICT_COLUMNS, [*map(_verdict_row, verdicts)])


def _verdict_row(verdict: Verdict) -> tuple[str, str, str]:
    return verdict.expectation, verdict.measured, "yes" if verdict.holds else "NO"


def _experiment_section(experiment: Experiment, heading: str) -> str:
    return section(
        heading,
        paragraph(f"Claim: {experiment.claim} ({experiment.source})"),
        grid([_chart(experiment)], 40),
        verdict_table(experiment.verdicts),
        table([experiment.x_label, experiment.y_label, "Interval", "Series"], [*_value_rows(experiment)]),
        *map(paragraph, experiment.notes),
    )


def _value_rows(experiment: Experiment) -> Iterator[tuple[str, str, str, str]]:
    for series in experiment.series:
        if not series.fitted:
            for x, y, low, high in series.points:
                name = x if isinstance(x, str) else f"{x:,.10g}"
                yield (
                    name,
                    f"{y:.4g}",
                    "" if low == high or math.isnan(low) else f"{low:.4g} to {high:.4g}",
                    series.name,
                )
    for name, y in experiment.baselines.items():
        yield "", f"{y:.4g}", "", f"baseline: {name}"


def _colours(series: Sequence[Series]) -> list[str]:
    """Colours of the lines; a fit has that of the measured points before it."""
    numbers: list[int] = []
    for i, one in enumerate(series):
        same = one.fitted and i and not series[i - 1].fitted
        numbers.append(numbers[-1] if same else max(numbers, default=-1) + 1)
    return [_COLOURS[number % len(_COLOURS)] for number in numbers]


def _chart(experiment: Experiment) -> str:
    """Series with their intervals, and baselines as horizontal lines."""
    places = list(dict.fromkeys(point.x for series in experiment.series for point in series.points))
    numbers = [place for place in places if not isinstance(place, str)]
    names = [] if len(numbers) == len(places) else [str(place) for place in places]
    lines, colours = [], _colours(experiment.series)
    for colour, (name, points, fitted) in zip(colours, experiment.series, strict=True):
        x = [float(names.index(str(point.x)) if names else point.x) for point in points]
        y, intervals = [point.y for point in points], [(point.low, point.high) for point in points]
        style = "--" if fitted else " " if names else "-"
        lines.append(Line(name, x, y, colour, style, intervals=intervals))
    ends = [-0.5, len(names) - 0.5] if names else [min(numbers), max(numbers)]
    lines += [Line(name, ends, [y, y], "muted", "--", 1.2) for name, y in experiment.baselines.items()]
    marked = {point.x for series in experiment.series if not series.fitted for point in series.points}
    ticks = sorted(x for x in marked if not isinstance(x, str)) if experiment.log_x and not names else []
    return curve(experiment.title, lines, experiment.x_label, experiment.y_label, log_ticks=ticks, names=names)
