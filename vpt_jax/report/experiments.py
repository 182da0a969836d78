"""Results of experiments as files: what was measured, the paper's claim beside it, and a verdict that can be NO.

Every experiment writes one such file, whatever program ran it, and one page is drawn from all of them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vpt_jax.system.atomic_files import write_text


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
        "series": [
            {"name": name, "points": [point._asdict() for point in points]} for name, points in experiment.series
        ],
        "baselines": dict(experiment.baselines),
        "verdicts": [verdict._asdict() for verdict in experiment.verdicts],
    }
    write_text(file, json.dumps(fields, indent=1) + "\n")


def read_experiment(file: Path) -> Experiment:
    """Read the result of an experiment that `write_experiment` wrote."""
    fields = json.loads(file.read_text(encoding="utf-8"))
    series = (Series(one["name"], tuple(Point(**point) for point in one["points"])) for one in fields.pop("series"))
    verdicts = (Verdict(**one) for one in fields.pop("verdicts"))
    notes = tuple(fields.pop("notes"))
    return Experiment(series=tuple(series), verdicts=tuple(verdicts), notes=notes, **fields)
