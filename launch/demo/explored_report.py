"""Results of the comparison of scripted and explored play as experiments: loss, keys and mouse by minutes of play.

All figures are of the scripted player's held-out play, which selects nothing.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.evaluation.baselines import idm_baselines
from vpt_jax.report.experiments import Experiment, Point, Series, Verdict

SCRIPTED, RANDOM = "scripted", "random"


class Runs(NamedTuple):
    """Paths of one repetition of the comparison."""

    data: Mapping[str, Path]  # dataset by source of play: SCRIPTED, RANDOM, and then each round's policy
    idms: Mapping[str, Mapping[float, Path]]  # work directory by source of play and minutes
    playing: Path  # evaluation of the policies in the game


class _Metric(NamedTuple):
    experiment: str  # its name
    name: str  # in score.json
    label: str
    sign: int  # 1: more is better; -1: less
    constants: Mapping[str, str]  # titles of the constant baselines, by source of the play that they are fitted to


_CONSTANT = {SCRIPTED: "all released, no movement"}
_METRICS = (
    _Metric(
        "explored_loss", "nll", "nats per frame", -1,
        {SCRIPTED: "marginal distribution of the scripted play", RANDOM: "marginal distribution of the random play"},
    ),
    _Metric("explored_keys", "key_exact", "share of frames with all keys right", 1, _CONSTANT),
    _Metric("explored_mouse", "mouse_r2/yaw", "R2 of the mouse, yaw", 1, _CONSTANT),
)  # fmt: skip
_REPEAT = "previous action, which no video contains"
_CLAIM = (
    "An inverse dynamics model of people's recorded play labels people's videos well; one of a policy's own "
    "exploration, as in BCO, has not seen what that policy cannot do."
)
_SOURCE = "section 4.1; recalled, not checked against the paper's text, and without figures"


def make_experiments(repetitions: Sequence[Runs], setting: str) -> dict[str, Experiment]:
    """An experiment for each metric, by name.

    Args:
        repetitions: the same comparison with different seeds.
        setting: the game and its frames, for the notes.
    """
    experiments = {}
    trivial = [_baselines(runs) for runs in repetitions]
    for metric in _METRICS:
        baselines = {
            name: float(np.mean([one[metric.name][name] for one in trivial])) for name in trivial[0][metric.name]
        }
        experiments[metric.experiment] = _experiment(metric, repetitions, baselines, setting)
    return experiments


def _experiment(
    metric: _Metric, repetitions: Sequence[Runs], baselines: Mapping[str, float], setting: str
) -> Experiment:
    sources = repetitions[0].idms
    curves = {
        source: tuple(_point(metric, repetitions, source, minutes) for minutes in by_minutes)
        for source, by_minutes in sources.items()
    }
    return Experiment(
        title=f"Scripted against explored play for the inverse dynamics model: {metric.label}",
        claim=_CLAIM,
        source=_SOURCE,
        x_label="minutes of play",
        y_label=metric.label,
        series=tuple(Series(_title(source), points) for source, points in curves.items()),
        baselines=baselines,
        verdicts=tuple(_verdicts(metric, curves, baselines)),
        notes=(
            f"Embedded game, {setting}; {len(repetitions)} seeds, each with other episodes and another training. "
            "Tested on held-out episodes of the scripted player, who stands for people.",
            "Points are means over the seeds. An interval spans the 95% intervals of all seeds, each by "
            "bootstrap over held-out episodes, so it is wider than 95%. Verdicts compare these intervals.",
            "The demonstrations whose videos each round labels are the episodes of the scripted player's series.",
            *_played(repetitions),
        ),
        log_x=True,
    )


def _title(source: str) -> str:
    titles = {SCRIPTED: "scripted player", RANDOM: "random agent (BCO, first model)"}
    return titles.get(source, f"cloned policy (BCO, {source.replace('-', ' ')})")


def _point(metric: _Metric, repetitions: Sequence[Runs], source: str, minutes: float) -> Point:
    """Mean over the repetitions, and the interval that contains those of all."""
    files = [runs.idms[source][minutes] / "score" / "score.json" for runs in repetitions]
    measured = [json.loads(file.read_text())["metrics"][metric.name] for file in files]
    values, lows, highs = ([one[key] for one in measured] for key in ("value", "low", "high"))
    return Point(minutes, float(np.mean(values)), min(lows), max(highs))


def _baselines(runs: Runs) -> dict[str, dict[str, float]]:
    """Figures on the held-out play of predictors that see no frame and are fitted to all of a play, by title."""
    test = _stream(runs.data[SCRIPTED], "test")
    by_source = {source: idm_baselines(_stream(runs.data[source], "train"), test) for source in (SCRIPTED, RANDOM)}
    return {
        metric.name: {title: by_source[source]["released"][metric.name] for source, title in metric.constants.items()}
        | {_REPEAT: by_source[SCRIPTED]["repeat"][metric.name]}
        for metric in _METRICS
    }


def _stream(dataset: Path, split: str) -> Stream:
    return Stream(StreamSettings(str(dataset), split, 1, 1, "keep", shuffle=False))


def _verdicts(
    metric: _Metric, curves: Mapping[str, Sequence[Point]], baselines: Mapping[str, float]
) -> Iterator[Verdict]:
    """Comparisons at the most minutes of play."""
    last = {source: points[-1] for source, points in curves.items()}
    scripted, constant = last[SCRIPTED], metric.constants[SCRIPTED]
    value, end = baselines[constant], f"with {scripted.x:g} minutes of play: {metric.label}"
    beaten = _is_better(metric, scripted, Point(scripted.x, value, value, value))
    measured = f"{_interval(scripted)} against {value:.3f}"
    yield Verdict(f"The model of the {_title(SCRIPTED)} is better than {constant!r}, {end}", measured, beaten)
    for source, point in last.items():
        if source != SCRIPTED:
            expectation = f"The model of the {_title(SCRIPTED)} is better than that of the {_title(source)}, {end}"
            measured = f"{_interval(scripted)} against {_interval(point)}"
            yield Verdict(expectation, measured, _is_better(metric, scripted, point))
    final = [*last][-1]
    expectation = f"The model of the {_title(final)} is better than that of the {_title(RANDOM)}, {end}"
    measured = f"{_interval(last[final])} against {_interval(last[RANDOM])}"
    yield Verdict(expectation, measured, _is_better(metric, last[final], last[RANDOM]))


def _is_better(metric: _Metric, one: Point, other: Point) -> bool:
    """True if the whole interval of `one` is better than that of `other`."""
    return one.low > other.high if metric.sign > 0 else one.high < other.low


def _interval(point: Point) -> str:
    return f"{point.y:.3f} ({point.low:.3f} to {point.high:.3f})"


def _played(repetitions: Sequence[Runs]) -> Iterator[str]:
    """Note on the places that each agent has visited in the game."""
    figures = [json.loads((runs.playing / "figures.json").read_text()) for runs in repetitions]
    by_agent = {
        agent: ", ".join(f"{one[agent]['return']:.2f} ± {one[agent]['return_error']:.2f}" for one in figures)
        for agent in figures[0]
    }
    yield "Places visited in an episode, mean ± standard error, by seed: " + "; ".join(
        f"{agent} {values}" for agent, values in by_agent.items()
    )
