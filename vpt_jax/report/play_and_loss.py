"""Experiment: is held-out loss a guide to play? Loss and return of a run's checkpoints (paper, section 4.2)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vpt_jax.evaluation.checkpoint_play import AgentPlay, best_by_play, checkpoints_of, read_play
from vpt_jax.report.checkpoint_play import read_losses
from vpt_jax.report.experiments import Experiment, Point, Series, Verdict, write_experiment
from vpt_jax.report.playing import format_figure

FILE = "play_and_loss.json"
_CLAIM = (
    "Loss on contractor data is lowest near epoch 7 and rises afterwards, while in-game statistics do not fall: loss "
    "is no dependable guide to behaviour."
)


def write_play_and_loss(workdir: Path) -> Path | None:
    """Write the experiment's file into a run's work directory; returns its path.

    None: no checkpoint has play and both losses, that on which the best is chosen and that of `config.data.test`.
    """
    played = [one for one in read_play(workdir) if "return" in one.reported]
    losses = read_losses(workdir)
    by_step = {one.step: one for one in checkpoints_of(played) if one.step in losses.choosing.keys() & losses.test}
    if not by_step:
        return None
    experiment = Experiment(
        title="Play against held-out loss",
        claim=_CLAIM,
        source="section 4.2, quoted in notes on the paper",
        x_label="step",
        y_label="return in the game; held-out loss in nats per frame",
        series=(
            Series("return", tuple(Point(step, *one.reported["return"]) for step, one in by_step.items())),
            Series("held-out loss", tuple(Point(step, *[losses.test[step]] * 3) for step in by_step)),
        ),
        baselines={one.agent: one.reported["return"].value for one in played if not one.step},
        verdicts=tuple(_verdicts(by_step, min(by_step, key=losses.choosing.__getitem__), losses.test)),
        notes=tuple(_notes(next(iter(by_step.values())).settings)),
    )
    write_experiment(workdir / FILE, experiment)
    return workdir / FILE


def _verdicts(by_step: Mapping[int, AgentPlay], by_loss: int, losses: Mapping[int, float]) -> Sequence[Verdict]:
    """The paper's claim in two parts, and its use. `by_loss`: the step that the validation data choose."""
    last = max(by_step)
    at_best, at_last = (by_step[step].reported["return"] for step in (by_loss, last))
    verdicts = [
        Verdict(
            "From the step of the lowest loss to the last, the loss rises",
            f"{losses[by_loss]:.3f} nats at step {by_loss:,}, {losses[last]:.3f} at step {last:,}",
            losses[last] > losses[by_loss],
        ),
        Verdict(
            "Over the same steps the return does not fall: its last interval reaches the earlier mean",
            f"{format_figure('return', at_best)} at step {by_loss:,}, {format_figure('return', at_last)} at {last:,}",
            by_loss < last and at_last.high >= at_best.value,
        ),
    ]
    if chosen := best_by_play(list(by_step.values())):
        best = chosen.reported["return"]
        measured = f"{format_figure('return', best)} at step {chosen.step:,}, {format_figure('return', at_best)}"
        expectation = "The checkpoint chosen by play plays better than that chosen by loss: their intervals are apart"
        verdicts.append(Verdict(expectation, f"{measured} at step {by_loss:,}", best.low > at_best.high))
    return verdicts


def _notes(settings: Mapping[str, Any]) -> Iterator[str]:
    reported, choosing = (settings[group] for group in ("reported", "choosing"))
    yield f"{settings['game']['name']}, rewards {settings['rewards']!r}; {reported['episodes']} episodes of each agent."
    yield (
        f"Seeds from {reported['seed']}; the best by play is chosen by {choosing['episodes']} episodes from seed "
        f"{choosing['seed']}, the best by loss on the split `valid`. The losses are of the split `test`."
    )
    yield "Intervals of the return: bootstrap over episodes. The loss is of all held-out frames, and has no interval."
