"""Report of RL fine-tuning at small scale: its gain, and the effect of the KL penalty to the cloned policy."""

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from vpt_jax.evaluation.rollouts import EpisodeResult
from vpt_jax.report.experiments import Verdict, verdict_lines, verdict_table
from vpt_jax.report.page import Line, curve, facts_list, grid, paragraph, section
from vpt_jax.report.playing import write_playing_report
from vpt_jax.report.training import series, smoothed
from vpt_jax.training.metrics_log import read_metrics

_COLOURS = ("model", "repeat", "trivial", "train")


def write_tuning_report(
    folder: Path, runs: Mapping[str, Path], cloned: str, seconds: Mapping[str, float]
) -> tuple[Path, list[str]]:
    """Write `report.html` into a folder; returns its path and the checked claims, one line each.

    Args:
        folder: output folder, which contains an evaluation in `playing`.
        runs: work directories by agent name: fine-tuned, without the KL penalty, and from scratch.
        cloned: name of the pretrained agent.
        seconds: duration of each stage, by name.
    """
    playing = folder / "playing"
    written = json.loads((playing / "figures.json").read_text())
    figures = {name: defaultdict(lambda: math.nan, of_agent) for name, of_agent in written.items()}
    agents = {name: _played(playing / "agents" / f"{name}.json") for name in figures}
    claims = list(_claims(figures, cloned, *runs))
    before = [
        section("Checked claims", verdict_table(claims)),
        _curves(runs, figures[cloned]["return"]),
    ]
    after = [section("Time", facts_list({name: f"{duration:.0f} s" for name, duration in seconds.items()}))]
    title = "Reinforcement learning at small scale"
    page = write_playing_report(folder, title, agents, playing / "recordings", before, after)
    return page, verdict_lines(claims)


def _played(file: Path) -> list[EpisodeResult]:
    return [EpisodeResult(**one) for one in json.loads(file.read_text())["episodes"]]


def _claims(
    figures: Mapping[str, Mapping[str, float]], cloned: str, tuned: str, without_penalty: str, scratch: str
) -> Iterator[Verdict]:
    gain, error = _difference(figures[tuned], figures[cloned])
    measured = f"{_return(figures[tuned])} against {_return(figures[cloned])}, a difference of {gain:.2f} ± {error:.2f}"
    yield Verdict("Fine-tuned above the cloned policy by more than two standard errors", measured, gain > 2 * error)
    measured = f"{_return(figures[tuned])} against {_return(figures[scratch])}"
    yield Verdict(
        "Fine-tuned above the policy trained from scratch",
        measured,
        _difference(figures[tuned], figures[scratch])[0] > 0,
    )
    penalized, unpenalized = figures[tuned]["drift"], figures[without_penalty]["drift"]
    measured = f"{penalized:.2f} against {unpenalized:.2f} nats per step"
    yield Verdict("With the KL penalty, the policy stays closer to the cloned one", measured, penalized < unpenalized)


def _difference(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float]:
    """Difference of the mean returns, and its standard error."""
    return one["return"] - other["return"], math.hypot(one["return_error"], other["return_error"])


def _return(figures: Mapping[str, float]) -> str:
    return f"{figures['return']:.2f} ± {figures['return_error']:.2f}"


def _curves(runs: Mapping[str, Path], cloned: float) -> str:
    """Returns of the policies and their KL divergence from the cloned policy during training."""
    returns, drifts, ends = [], [], [0.0, 0.0]
    for (name, workdir), colour in zip(runs.items(), _COLOURS, strict=False):
        log = read_metrics(workdir)
        steps, values = series(log, "train/return")
        ends = [0, max([ends[1], *steps])]
        returns += [Line("", steps, values, colour, width=0.6, alpha=0.45), Line(name, steps, smoothed(values), colour)]
        if name != list(runs)[-1]:  # from scratch: there is no pretrained policy
            drifts.append(Line(name, *series(log, "train/kl_pretrained"), colour))
    returns.append(Line("cloned", ends, [cloned] * 2, _COLOURS[-1], "--", 1.3))
    charts = [
        curve("Return of the episodes that ended in an iteration", returns, "iteration", "return"),
        curve("KL from the cloned policy", drifts, "iteration", "nats per step"),
    ]
    text = "Thin lines are single iterations, thick ones their running mean. All runs used the same number of frames."
    return section("Training curves", grid(charts), paragraph(text))
