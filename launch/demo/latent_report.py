"""Results of latent actions against an inverse dynamics model, as files of `vpt_jax/report/experiments.py`.

Every figure is of the held-out split `test`, which selects nothing, with a 95% interval by bootstrap over its episodes.
All models are those of their last step.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from vpt_jax.actions.space import ActionSpace
from vpt_jax.curation.validation.alignment import EpisodeScorer, selected
from vpt_jax.curation.validation.episodes import Episode, find_episodes
from vpt_jax.curation.validation.predictions import head_outcomes, log_likelihood, recorded_actions
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.evaluation.baselines import FactoredMarginal, policy_baselines
from vpt_jax.evaluation.metrics import (
    COMMON_SHARE,
    Measure,
    Predict,
    Prediction,
    Totals,
    action_measures,
    compute_metrics,
    compute_totals,
)
from vpt_jax.evaluation.resampling import Figure, figures_with_intervals, sum_episodes
from vpt_jax.report.experiments import (
    Experiment,
    Point,
    Series,
    Verdict,
    verdict_lines,
    write_experiment,
    write_experiments_page,
)
from vpt_jax.training.behavioural_cloning import predict_next
from vpt_jax.training.checkpoints import load_idm, load_latent_actions, load_policy
from vpt_jax.training.latent_actions import frame_measures, predict_next_frames

LATENT, IDM = "latent actions", "inverse dynamics"
_CHUNK = 64  # frames per call of a model
_CLAIM = (
    "Pretraining without action labels, on latent actions, approaches and even exceeds pretraining with action labels."
)
_SOURCE = (
    "Not of the VPT paper: LAPA (arXiv 2410.11758), for robots, recalled. Here for labels of play: the codes replace "
    "the frames that an inverse dynamics model sees."
)
_MINUTES = "minutes of labelled play"


class _Metric(NamedTuple):
    """A metric of labels, and the predictor without frames that is best by it."""

    title: str
    unit: str
    more: bool  # True if more is better
    trivial: str


_METRICS = {
    "nll": _Metric("Loss of labels", "nats per frame", False, "the marginal distribution"),
    "key_nll": _Metric("Loss of labels, keys alone", "nats per frame", False, "the marginal distribution"),
    "f1/mean": _Metric(
        "Keys of labels", f"mean F1 of keys held in more than {COMMON_SHARE:.0%} of frames", True, "all keys held"
    ),
    "mouse_r2/pitch": _Metric("Pitch of labels", "R2 of the likeliest bin", True, "the mean"),
    "mouse_r2/yaw": _Metric("Yaw of labels", "R2 of the likeliest bin", True, "the mean"),
}


class Runs(NamedTuple):
    """Paths of the runs and datasets that are compared."""

    recorded: Path  # dataset with the true labels; its split `test` is held out
    unlabelled: Path  # dataset of the play whose frames latent actions are learnt from
    latent: Path  # work directory of the latent actions
    labellers: Mapping[str, Mapping[float, Path]]  # work directories by model and minutes of labelled play
    policies: Mapping[str, Path]  # cloned from the labels of each model


class _Labels(NamedTuple):
    """Sums over the labels of one episode."""

    totals: Totals
    key_loss: Float[np.ndarray, ""]  # nats; the part of the keys in the loss


class _Pair(NamedTuple):
    """Sums of one episode of two predictors, for the interval of their difference."""

    one: Any
    other: Any


def write_experiments(folder: Path, runs: Runs) -> list[str]:
    """Write all results into a folder; returns them as lines of text, whatever they show."""
    results = {"latent-frames": _frames_experiment(runs), "latent-policies": _policies_experiment(runs)}
    labels, trivial, space = _labels(runs), _trivial_labels(runs), _stream(runs.recorded, "test", "keep").space
    results |= {
        f"latent-{metric.replace('/', '-')}": _labels_experiment(space, labels, trivial, metric) for metric in _METRICS
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, experiment in results.items():
        write_experiment(folder / f"{name}.json", experiment)
    file = folder / "latent.html"
    write_experiments_page(file, f"{LATENT.capitalize()} against {IDM}", list(results.values()))
    return [*(line for experiment in results.values() for line in _lines(experiment)), f"charts: {file}"]


def _lines(experiment: Experiment) -> Iterator[str]:
    yield f"{experiment.title} ({experiment.y_label})"
    for name, points, _ in experiment.series:
        yield from (f"  {name}, {x}: {y:.4g} ({low:.4g} to {high:.4g})" for x, y, low, high in points)
    yield from (f"  baseline {name}: {value:.4g}" for name, value in experiment.baselines.items())
    yield from (f"  {note}" for note in experiment.notes)
    yield from (f"  {line}" for line in verdict_lines(experiment.verdicts))


def _point(x: float | str, figure: Figure) -> Point:
    return Point(x, *figure)


def _totals_by_episode(
    predict: Predict, memory: Callable[[int], Any], measure: Measure, params: Any, stream: Stream
) -> list[Any]:
    """Sums of a model's predictions for every episode of a stream, which it reads in chunks."""
    step = jax.jit(predict)

    def of_episode(episode: int) -> Any:
        totals, carried = measure.zero(), memory(1)
        for start in range(0, int(stream.kept_lengths[episode]), _CHUNK):
            batch = stream.read_episode(episode, start, _CHUNK)
            prediction, carried = step(params, carried, batch)
            totals = jax.tree.map(np.add, totals, jax.device_get(measure.totals(prediction, batch)))
        return totals

    return [of_episode(episode) for episode in range(len(stream.index.names))]


def _stream(dataset: Path, split: str, nulls: str) -> Stream:
    return Stream(StreamSettings(str(dataset), split, 1, 1, nulls, shuffle=False))


def _frames_experiment(runs: Runs) -> Experiment:
    """Next frames by the latent actions' decoder, and the use of the codebook."""
    latent = load_latent_actions(runs.latent)
    measure, stream = frame_measures(latent.module)["valid"], _stream(runs.recorded, "test", "keep")
    predict = partial(predict_next_frames, latent.module)
    totals = _totals_by_episode(predict, lambda rows: (), measure, latent.params, stream)
    figures = figures_with_intervals(totals, measure.compute)
    error, used = figures["relative_error"], figures["perplexity"]
    return Experiment(
        title="Next frame from a frame and the codes of its change",
        claim="Genie and LAPA: codes of frame pairs, learnt without labels, determine the next frame.",
        source="Not of the VPT paper: LAPA (arXiv 2410.11758) and Genie (arXiv 2402.15391), their first stage.",
        x_label="model",
        y_label="squared error, copying the last frame = 1",
        series=(Series("decoder", (_point(LATENT, error),)),),
        baselines={"copy of the last frame": 1.0},
        verdicts=(
            Verdict("The codes predict the next frame better than copying", _text(error), error.high < 1),
            Verdict(
                f"No codebook collapse: a perplexity above half of {latent.module.codes} codes",
                _text(used),
                used.low > latent.module.codes / 2,
            ),
        ),
        notes=(_episodes_note(len(totals)), f"{latent.step} steps; {latent.module.tokens} codes per pair."),
    )


def _text(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def _episodes_note(episodes: int) -> str:
    return f"95% intervals by bootstrap over {episodes} held-out episodes; one seed of training."


def _labels(runs: Runs) -> dict[str, dict[float, list[_Labels]]]:
    """Sums by episode of the held-out play, of the most probable labels, by model and minutes of labelled play."""
    episodes = [episode for episode in find_episodes(runs.recorded) if episode.split == "test"]
    return {
        name: {minutes: _labels_of_model(workdir, episodes) for minutes, workdir in by_minutes.items()}
        for name, by_minutes in runs.labellers.items()
    }


def _labels_of_model(workdir: Path, episodes: Sequence[Episode]) -> list[_Labels]:
    idm = load_idm(workdir)
    space, labels = idm.module.space, []
    scorer = EpisodeScorer(idm, mirror=True)
    for episode in episodes:
        log_probs, true = scorer.log_probs(episode), recorded_actions(episode)
        outcomes = head_outcomes(true, space)
        loss, key_loss = -log_likelihood(log_probs, *outcomes.values()), -selected(log_probs[0], outcomes["buttons"])
        keys, bins = (head.argmax(-1) for head in log_probs)
        prediction = Prediction(loss, keys.astype(np.uint8), space.to_movement(bins))
        totals = compute_totals(space, prediction, true.keys, true.movement, np.ones(len(loss), bool))
        labels.append(_Labels(totals, key_loss.sum()))
    return labels


def _trivial_labels(runs: Runs) -> list[_Labels]:
    """The same of labels from no frame: all keys held, no movement, and the loss of the marginal distribution.

    The marginal distribution is that of all labelled play, not of some minutes.
    """
    marginal, labels = FactoredMarginal.from_stream(_stream(runs.recorded, "train", "keep")), []
    for episode in find_episodes(runs.recorded):
        if episode.split == "test":
            true, space = recorded_actions(episode), episode.index.space
            losses = -np.log(marginal.probabilities(space, (true.keys, true.movement)))
            held = Prediction(losses.sum(-1), np.ones_like(true.keys), np.zeros_like(true.movement))
            totals = compute_totals(space, held, true.keys, true.movement, np.ones(len(losses), bool))
            labels.append(_Labels(totals, losses[:, : len(space.keys)].sum()))
    return labels


def _metrics(space: ActionSpace, labels: _Labels) -> dict[str, float]:
    key_nll = float(labels.key_loss / labels.totals.frames)
    return compute_metrics(space, labels.totals) | {"key_nll": key_nll}


def _trivial_metrics(space: ActionSpace, labels: _Labels) -> dict[str, float]:
    """Metrics of the best predictor without frames: of movement, its mean, whose R2 is 0 by definition."""
    metrics = _metrics(space, labels)
    return {name: 0.0 if name.startswith("mouse_r2") else value for name, value in metrics.items()}


def _gap(
    one: Sequence[Any],
    other: Sequence[Any],
    compute: Callable[[Any], Mapping[str, float]],
    compute_other: Callable[[Any], Mapping[str, float]],
    metric: str,
) -> Figure:
    """Difference of two predictors by a metric, over the same resampled episodes."""

    def difference(pair: _Pair) -> dict[str, float]:
        return {metric: compute(pair.one)[metric] - compute_other(pair.other)[metric]}

    pairs = [_Pair(*both) for both in zip(one, other, strict=True)]
    return figures_with_intervals(pairs, difference)[metric]


def _labels_experiment(
    space: ActionSpace, labels: Mapping[str, Mapping[float, list[_Labels]]], trivial: list[_Labels], metric: str
) -> Experiment:
    """Quality of labels against minutes of labelled play, by one metric."""
    title, unit, more, trivial_name = _METRICS[metric]
    compute, compute_trivial = partial(_metrics, space), partial(_trivial_metrics, space)
    return Experiment(
        title=f"{title}: {LATENT} against {IDM}",
        claim=_CLAIM,
        source=_SOURCE,
        x_label=_MINUTES,
        y_label=unit,
        series=tuple(
            Series(
                name,
                tuple(_point(x, figures_with_intervals(each, compute)[metric]) for x, each in by_minutes.items()),
            )
            for name, by_minutes in labels.items()
        ),
        baselines={trivial_name: compute_trivial(sum_episodes(trivial))[metric]},
        verdicts=tuple(
            _verdict(f"{name}, {x:g} minutes", _gap(each, trivial, compute, compute_trivial, metric), metric)
            for name, by_minutes in labels.items()
            for x, each in by_minutes.items()
        ),
        notes=(
            *(
                _comparison(x, _gap(each, labels[IDM][x], compute, compute, metric), more)
                for x, each in labels[LATENT].items()
            ),
            _episodes_note(len(trivial)),
        ),
        log_x=True,
    )


def _verdict(labels: str, gap: Figure, metric: str) -> Verdict:
    """Verdict on labels against the predictor without frames, by their difference over the same episodes."""
    _, _, more, trivial = _METRICS[metric]
    better = gap.low > 0 if more else gap.high < 0
    return Verdict(f"Labels of {labels}, are better than {trivial}", f"difference {_text(gap)}", bool(better))


def _comparison(minutes: float, gap: Figure, more: bool) -> str:
    return f"At {minutes:g} minutes, {LATENT} minus {IDM}: {_text(gap)}; {_better(gap, more)}."


def _better(gap: Figure, more: bool) -> str:
    """Model that is better by a difference (latent minus IDM) whose interval does not contain 0."""
    if gap.low <= 0 <= gap.high:
        return "no difference beyond the interval"
    return f"{LATENT if (gap.value > 0) == more else IDM} better"


def _policies_experiment(runs: Runs) -> Experiment:
    """Losses of the policies that are cloned from the labels of both models."""
    test = _stream(runs.recorded, "test", "drop")
    measure = action_measures(test.space, ["valid"])["valid"]
    totals = {name: _policy_totals(workdir, measure, test) for name, workdir in runs.policies.items()}
    figures = {name: figures_with_intervals(each, measure.compute)["nll"] for name, each in totals.items()}
    baselines = policy_baselines(_stream(runs.recorded, "train", "drop"), test)
    trivial = baselines["marginal"]["nll"]
    gap = _gap(totals[LATENT], totals[IDM], measure.compute, measure.compute, "nll")
    return Experiment(
        title=f"Policies cloned from labels: {LATENT} against {IDM}",
        claim=_CLAIM,
        source=_SOURCE,
        x_label="labels by",
        y_label="loss of true actions, nats per frame",
        series=(Series("policy", tuple(_point(name, figure) for name, figure in figures.items())),),
        baselines={"the marginal distribution": trivial, "the last action repeated": baselines["repeat"]["nll"]},
        verdicts=(
            Verdict(
                f"The policy from labels of {LATENT} is better than the marginal distribution",
                f"{_text(figures[LATENT])} against {trivial:.3f}",
                figures[LATENT].high < trivial,
            ),
        ),
        notes=(
            f"{LATENT} minus {IDM}: {_text(gap)}; {_better(gap, more=False)}.",
            "Repeating has the true last action as input, which a policy has not.",
            _episodes_note(len(totals[LATENT])),
        ),
    )


def _policy_totals(workdir: Path, measure: Measure, stream: Stream) -> list[Totals]:
    policy = load_policy(workdir)
    predict = partial(predict_next, policy.module)
    return _totals_by_episode(predict, policy.module.initial_memory, measure, policy.params, stream)
