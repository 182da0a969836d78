"""The page of reinforcement learning in small: whether fine-tuning pays, and what the leash is good for."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from vpt_jax.evaluation.rollouts import Played
from vpt_jax.report.page import Line, curve, facts_list, grid, paragraph, section, table
from vpt_jax.report.playing import write_playing_report
from vpt_jax.report.training import series, smoothed
from vpt_jax.training.metrics_log import read_metrics

_COLOURS = ("model", "repeat", "trivial", "train")

Verdict = tuple[str, str, bool]  # the claim, what was measured, whether it holds


def write_tuning_report(
    folder: Path, runs: Mapping[str, Path], cloned: str, seconds: Mapping[str, float]
) -> tuple[Path, list[str]]:
    """Writes `report.html` into a folder; returns its path and the verdicts, a line each.

    Args:
        folder: with an evaluation in `playing`.
        runs: work directories by the agents' names: fine-tuned, without the leash, and from scratch.
        cloned: name of the agent that they began with.
        seconds: that each stage took.
    """
    playing = folder / "playing"
    written = json.loads((playing / "figures.json").read_text())
    figures = {name: defaultdict(lambda: math.nan, of_agent) for name, of_agent in written.items()}
    agents = {name: _played(playing / "agents" / f"{name}.json") for name in figures}
    verdicts = list(_verdicts(figures, cloned, *runs))
    before = [
        section("Does it pay?", table(["Claim", "Measured", "Holds"], [_verdict_row(*one) for one in verdicts])),
        _curves(runs, figures[cloned]["return"]),
    ]
    after = [section("Time", facts_list({name: f"{taken:.0f} s" for name, taken in seconds.items()}))]
    title = "Reinforcement learning in small"
    page = write_playing_report(folder, title, agents, playing / "recordings", before, after)
    return page, [f"{'yes' if holds else 'NO':<4}{claim}: {measured}" for claim, measured, holds in verdicts]


def _played(file: Path) -> list[Played]:
    return [Played(**one) for one in json.loads(file.read_text())["episodes"]]


def _verdicts(
    figures: Mapping[str, Mapping[str, float]], cloned: str, tuned: str, unleashed: str, scratch: str
) -> Iterator[Verdict]:
    gain, error = _difference(figures[tuned], figures[cloned])
    measured = f"{_return(figures[tuned])} against {_return(figures[cloned])}, a difference of {gain:.2f} ± {error:.2f}"
    yield "Fine-tuned above the cloned policy by more than two standard errors", measured, gain > 2 * error
    measured = f"{_return(figures[tuned])} against {_return(figures[scratch])}"
    yield "Fine-tuned above what learns from scratch", measured, _difference(figures[tuned], figures[scratch])[0] > 0
    here, there = figures[tuned]["drift"], figures[unleashed]["drift"]
    measured = f"{here:.2f} against {there:.2f} nats a step"
    yield "With the leash, behaviour stays closer to the cloned policy's", measured, here < there


def _difference(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
    """Of the returns, and its standard error."""
    return one["return"] - other["return"], math.hypot(one["return_error"], other["return_error"])


def _return(figures: Mapping[str, float]) -> str:
    return f"{figures['return']:.2f} ± {figures['return_error']:.2f}"


def _verdict_row(claim: str, measured: str, holds: bool) -> Sequence[str]:
    return claim, measured, "yes" if holds else "no"


def _curves(runs: Mapping[str, Path], cloned: float) -> str:
    """What the policies got and how far they drifted while they learnt."""
    returns, drifts, ends = [], [], [0.0, 0.0]
    for (name, workdir), colour in zip(runs.items(), _COLOURS, strict=False):
        log = read_metrics(workdir)
        steps, values = series(log, "train/return")
        ends = [0, max([ends[1], *steps])]
        returns += [Line("", steps, values, colour, width=0.6, alpha=0.45), Line(name, steps, smoothed(values), colour)]
        if name != list(runs)[-1]:  # there is nothing that it could have drifted from
            drifts.append(Line(name, *series(log, "train/kl_pretrained"), colour))
    returns.append(Line("cloned", ends, [cloned] * 2, _COLOURS[-1], "--", 1.3))
    charts = [
        curve("Return of the episodes that ended in an iteration", returns, "iteration", "return"),
        curve("KL from the cloned policy", drifts, "iteration", "nats a step"),
    ]
    explained = "Thin lines are single iterations, thick ones their running mean. All runs played as many frames."
    return section("While they learnt", grid(charts), paragraph(explained))
