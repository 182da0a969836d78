"""Loss against play of a run's checkpoints: a section of its report, and a page of its own while it trains.

No figure comes from the data that chose a checkpoint: play is that of the reported episodes, and a loss on the split
that chooses the best by loss is not shown for that checkpoint.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vpt_jax.evaluation.checkpoint_play import AgentPlay, best_by_play, checkpoints_of, read_play
from vpt_jax.report.page import Line, curve, grid, page, paragraph, section, table
from vpt_jax.report.playing import figure_cells, figure_names
from vpt_jax.training.metrics_log import read_metrics

_TEXT = (
    "Every kept checkpoint plays {episodes} episodes of the same seeds, and {choosing} others, which choose the best "
    "by play and are in no figure here. Thin lines and brackets are 95% intervals over episodes: bootstrap for means, "
    "Wilson's for shares. Idle is the share of steps with a null action; stuck, the share of seconds in which most "
    "actions are not null and the picture stays as it is. The loss is that of the split `test`, if the run has one "
    "(config.data.test), which chooses nothing; else of the split `valid`, and then it is not shown for the checkpoint "
    "that it chose. In the chart of both, a line joins the checkpoints in the order of training."
)
_AGENTS = {"random": "trivial", "scripted": "repeat"}  # colours of agents that are not trained


class LossCurve(NamedTuple):
    """Held-out losses of a run by step, in nats per frame."""

    choosing: Mapping[int, float]  # on the first validation set, which chooses; empty: the run has none
    test: Mapping[int, float]  # on the test data; empty: the run has none

    def best(self, steps: Sequence[int]) -> int | None:
        """The step, of those given, with the lowest loss on the data that choose; None: none was evaluated."""
        evaluated = [step for step in steps if step in self.choosing]
        return min(evaluated, key=self.choosing.__getitem__, default=None)

    def reported(self, step: int, chosen: int | None) -> float | None:
        """Loss of a checkpoint on data that did not choose it; None: there are none. `chosen`: the best by loss."""
        return self.test.get(step) if self.test or step == chosen else self.choosing.get(step)


def read_losses(workdir: Path) -> LossCurve:
    """Held-out losses in a run's `metrics.jsonl`; none of a run without validation data."""
    log = read_metrics(workdir) if (workdir / "metrics.jsonl").exists() else []
    names = [name for line in log for name in line if name.startswith("valid") and name.endswith("/nll")]
    choosing = {int(line["step"]): line[names[0]] for line in log if names and names[0] in line}
    return LossCurve(choosing, {int(line["step"]): line["test/nll"] for line in log if "test/nll" in line})


def write_play_page(workdir: Path) -> Path:
    """Write `play.html` into a run's work directory, which holds a `play.jsonl`; returns its path."""
    path = workdir / "play.html"
    path.write_text(page(f"Play: {workdir.resolve().name}", play_sections(workdir)), encoding="utf-8")
    return path


def play_sections(workdir: Path) -> list[str]:
    """Section on the play of a run's checkpoints; none if none has played."""
    played = [one for one in read_play(workdir) if "return" in one.reported]
    checkpoints, losses = checkpoints_of(played), read_losses(workdir)
    if not checkpoints:
        return []
    episodes, choosing = (checkpoints[0].settings[group]["episodes"] for group in ("reported", "choosing"))
    text = paragraph(_TEXT.format(episodes=episodes, choosing=choosing))
    return [section("Loss against play", grid(_charts(played, losses)), _table(played, losses), text)]


def _charts(played: Sequence[AgentPlay], losses: LossCurve) -> list[str]:
    checkpoints = checkpoints_of(played)
    steps = [one.step for one in checkpoints]
    ends = [0, max([*steps, *losses.choosing])]
    others = [one for one in played if one.agent in _AGENTS]
    lines = [Line(one.agent, ends, [one.reported["return"].value] * 2, _AGENTS[one.agent], "--", 1.3) for one in others]
    charts = [curve("Return in the game", [*lines, *_with_interval("checkpoint", checkpoints, "return")], "step", "")]
    if losses.choosing:
        curves = {"valid": losses.choosing, "test": losses.test}
        lines = [
            Line(name, list(by_step), list(by_step.values()), colour)
            for (name, by_step), colour in zip(curves.items(), ("train", "model"), strict=True)
            if by_step
        ]
        charts.append(curve("Held-out loss", lines, "step", "nats per frame"))
        charts += _loss_against_play(checkpoints, losses)
    shares = [
        line
        for name, colour in (("idle", "train"), ("stuck", "trivial"))
        if all(name in one.reported for one in checkpoints)
        for line in _with_interval(name, checkpoints, name, colour)
    ]
    return [*charts, *([curve("Idle and stuck time", shares, "step", "share")] if shares else [])]


def _loss_against_play(checkpoints: Sequence[AgentPlay], losses: LossCurve) -> list[str]:
    """Chart with a point for each checkpoint that has a loss to report, joined in the order of training; else none."""
    chosen = losses.best([one.step for one in checkpoints])
    points = [(loss, one) for one in checkpoints if (loss := losses.reported(one.step, chosen)) is not None]
    if not points:
        return []
    x, returns = zip(*((loss, one.reported["return"]) for loss, one in points), strict=True)
    intervals = [(one.low, one.high) for one in returns]
    line = Line("last", x, [one.value for one in returns], "model", width=1.0, intervals=intervals)
    return [curve("Return by held-out loss", [line], "nats per frame", "return", points=True)]


def _with_interval(label: str, played: Sequence[AgentPlay], name: str, colour: str = "model") -> list[Line]:
    """A curve over the steps, and the ends of its intervals as thin lines."""
    steps, figures = [one.step for one in played], [one.reported[name] for one in played]
    value, low, high = (list(values) for values in zip(*figures, strict=True))
    return [Line("", steps, end, colour, width=0.6, alpha=0.6) for end in (low, high)] + [
        Line(label, steps, value, colour)
    ]


def _table(played: Sequence[AgentPlay], losses: LossCurve) -> str:
    checkpoints = {one.step: one for one in checkpoints_of(played)}
    by_loss, by_play = losses.best(list(checkpoints)), best_by_play(played)
    rows = {"Best by play": by_play, "Last": checkpoints[max(checkpoints)]}
    if by_loss is not None:
        rows = {"Best by loss": checkpoints[by_loss], **rows}
    rows |= {one.agent.capitalize(): one for one in played if one.agent in _AGENTS}
    chosen = {name: one for name, one in rows.items() if one is not None}
    names = figure_names([one.reported for one in chosen.values()])
    cells = []
    for name, one in chosen.items():
        loss = losses.reported(one.step, by_loss) if one.step else None
        step = f"{one.step:,}" if one.step else ""
        cells.append([name, step, "" if loss is None else f"{loss:.3f}", *figure_cells(one.reported, names)])
    return table(["", "Step", "Loss, nats", *names], cells)
