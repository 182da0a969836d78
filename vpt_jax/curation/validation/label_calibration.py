"""Calibration of labels: of every key and axis, of whole labels; temperatures, and thresholds that keep a precision."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vpt_jax.actions.space import ActionSpace
from vpt_jax.curation.validation.alignment import FrameLogProbs, selected
from vpt_jax.curation.validation.predictions import Predicted, head_outcomes
from vpt_jax.evaluation.calibration import (
    ReliabilityTotals,
    at_temperature,
    calibration_errors,
    fit_temperature,
    reliability_curve,
    reliability_totals,
    temperature_losses,
)
from vpt_jax.evaluation.resampling import Figure, figures_with_intervals, sum_episodes
from vpt_jax.evaluation.scores import ScoredActions
from vpt_jax.evaluation.thresholds import ScoredLabels, ThresholdFigures, threshold_figures

Curve = list[dict[str, float]]


class LabelOutcomes(NamedTuple):
    """Outcomes of the labels of one episode."""

    confidence: Float[np.ndarray, " n"]
    keys_right: Bool[np.ndarray, " n"]  # all of them
    all_right: Bool[np.ndarray, " n"]  # and the bins of all axes
    acting: Bool[np.ndarray, " n"]  # labels that are not null actions: of the others, a policy is not trained


class HeadSums(NamedTuple):
    """Sums of one episode, of a model's heads: add up over episodes."""

    reliability: ReliabilityTotals  # kinds: P(held) of every key, then the most probable bin of every axis
    losses: np.ndarray  # [heads, temperatures], nats


def label_outcomes(predicted: Predicted, recorded: ScoredActions, space: ActionSpace) -> LabelOutcomes:
    """Compares the labels of one episode with the recorded actions."""
    keys_right = (predicted.actions.keys == recorded.keys).all(-1)
    bins = space.to_bins(np.asarray(recorded.movement))
    bins_right = (space.to_bins(np.asarray(predicted.actions.movement)) == bins).all(-1)
    acting = ~space.is_null(predicted.actions.keys, np.asarray(predicted.actions.movement))
    return LabelOutcomes(predicted.confidence, keys_right, keys_right & bins_right, acting)


def threshold_table(outcomes: Sequence[LabelOutcomes], precision: float, draws: int) -> dict[str, ThresholdFigures]:
    """Thresholds by what has to be right, "keys" or "all", of all labels and of those that are not null actions."""
    table = {}
    for right in ("keys", "all"):
        for suffix, acting in (("", False), (", acting", True)):
            labels = []
            for episode in outcomes:
                chosen = episode.acting if acting else np.ones(len(episode.acting), bool)
                truth = episode.keys_right if right == "keys" else episode.all_right
                labels.append(ScoredLabels(episode.confidence[chosen], truth[chosen]))
            table[right + suffix] = threshold_figures(labels, precision, draws=draws)
    return table


def confidence_calibration(outcomes: Sequence[LabelOutcomes], draws: int) -> tuple[Figure, Curve]:
    """ECE of the confidence of whole labels, all keys and bins, with its interval; and the reliability curve."""
    sums = [reliability_totals(episode.confidence[:, None], episode.all_right[:, None]) for episode in outcomes]
    figures = figures_with_intervals(sums, lambda totals: {"ece": float(calibration_errors(totals)[0])}, draws=draws)
    return figures["ece"], curves(sum_episodes(sums))[0]


def curves(totals: ReliabilityTotals) -> list[Curve]:
    """Reliability curve of each kind: the bins that have cases."""
    probability, true, cases = reliability_curve(totals)
    return [
        [
            {"probability": float(p), "true": float(t), "cases": int(n)}
            for p, t, n in zip(*rows, strict=True)
            if n
        ]
        for rows in zip(probability, true, cases, strict=True)
    ]  # fmt: skip


def head_sums(log_probs: FrameLogProbs, recorded: ScoredActions, space: ActionSpace) -> HeadSums:
    """Sums of one episode."""
    outcomes = head_outcomes(recorded, space)
    losses = [temperature_losses(head, outcomes[name]) for name, head in log_probs._asdict().items()]
    return HeadSums(_reliability(log_probs, recorded, space), np.stack(losses))


def _reliability(log_probs: FrameLogProbs, recorded: ScoredActions, space: ActionSpace) -> ReliabilityTotals:
    bins = space.to_bins(np.asarray(recorded.movement))
    likeliest = log_probs.camera.argmax(-1)
    held = np.exp(np.asarray(log_probs.buttons[..., 1], np.float64))
    right_bin = np.exp(np.asarray(selected(log_probs.camera, likeliest), np.float64))
    return reliability_totals(
        np.concatenate([held, right_bin], -1), np.concatenate([recorded.keys > 0, likeliest == bins], -1)
    )


def temperatures_of(sums: Sequence[HeadSums] | HeadSums) -> dict[str, float]:
    """Temperature of each head by maximum likelihood, of all episodes together."""
    totals = sums if isinstance(sums, HeadSums) else sum_episodes(sums)
    return {head: fit_temperature(totals.losses[i]) for i, head in enumerate(FrameLogProbs._fields)}


def fit_temperatures(sums: Sequence[HeadSums], draws: int) -> dict[str, Figure]:
    """The same with intervals over episodes."""
    return figures_with_intervals(sums, temperatures_of, draws=draws)


def cooled(log_probs: FrameLogProbs, temperatures: Mapping[str, float]) -> FrameLogProbs:
    """Log-probabilities at a temperature of each head."""
    scaled = {name: at_temperature(head, temperatures[name]) for name, head in log_probs._asdict().items()}
    return FrameLogProbs(**{name: head.astype(np.float32) for name, head in scaled.items()})


def head_calibration(sums: Sequence[HeadSums], space: ActionSpace, draws: int) -> dict[str, Any]:
    """ECE with interval, and reliability curve, of every key that is held or may be, and of every axis, by name."""
    names = [*space.keys, *(axis.name for axis in space.axes)]
    figures = figures_with_intervals(
        [episode.reliability for episode in sums],
        lambda totals: dict(zip(names, calibration_errors(totals).tolist(), strict=True)),
        draws=draws,
    )
    all_curves = curves(sum_episodes([episode.reliability for episode in sums]))
    return {name: {"ece": figures[name], "curve": curve} for name, curve in zip(names, all_curves, strict=True)}


def key_thresholds(
    episodes: Sequence[tuple[Predicted, ScoredActions]], space: ActionSpace, precision: float, draws: int
) -> dict[str, ThresholdFigures]:
    """Thresholds of P(held) by key: of the labels with this key held, those at or above it keep the precision."""
    table = {}
    for i, key in enumerate(space.keys):
        labels = []
        for predicted, recorded in episodes:
            held = predicted.actions.keys[:, i] > 0
            probability = np.exp(predicted.log_probs.buttons[held, i, 1]) if predicted.log_probs else np.ones(0)
            labels.append(ScoredLabels(probability, recorded.keys[held, i] > 0))
        if any(len(label.right) for label in labels):
            table[key] = threshold_figures(labels, precision, draws=draws)
    return table
