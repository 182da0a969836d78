"""Thresholds of the confidence of labels above which a chosen share of them is right (precision)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vpt_jax.evaluation.resampling import Figure, bootstrap_weights, interval


class ScoredLabels(NamedTuple):
    """Confidence of an episode's labels, and which of them are right."""

    confidence: Float[np.ndarray, " n"]
    right: Bool[np.ndarray, " n"]


class Threshold(NamedTuple):
    """The lowest confidence that keeps a precision; NaN, with nothing kept, if none does."""

    confidence: float
    kept: float  # share of all labels
    precision: float  # share of right ones among the kept


class ThresholdFigures(NamedTuple):
    """A threshold with confidence intervals over episodes."""

    confidence: Figure
    kept: Figure
    precision: Figure  # of the threshold that all episodes give, applied to resampled episodes


class _Sorted(NamedTuple):
    confidence: np.ndarray  # descending
    right: np.ndarray
    episode: np.ndarray
    last: np.ndarray  # mask: the next confidence is another, so that a threshold can cut here


def choose_threshold(labels: ScoredLabels, precision: float) -> Threshold:
    """The lowest threshold whose kept labels, those of this confidence or more, are right in a share of `precision`."""
    return _choose(_sorted([labels]), np.ones(1), precision)


def threshold_figures(
    episodes: Sequence[ScoredLabels], precision: float, level: float = 0.95, draws: int = 1000
) -> ThresholdFigures:
    """The threshold of all episodes; intervals by resampling episodes, and choosing it anew in every draw.

    The interval of `precision` is that of the one threshold on resampled episodes: what to expect of other play.
    """
    rows = _sorted(episodes)
    chosen = _choose(rows, np.ones(len(episodes)), precision)
    kept = rows.confidence >= chosen.confidence
    drawn, precisions = [], []
    for weights in bootstrap_weights(len(episodes), draws):
        drawn.append(_choose(rows, weights, precision))
        of_kept = weights[rows.episode[kept]]
        precisions.append(float(of_kept @ rows.right[kept] / of_kept.sum()) if of_kept.sum() else np.nan)
    return ThresholdFigures(
        Figure(chosen.confidence, *interval([draw.confidence for draw in drawn], level)),
        Figure(chosen.kept, *interval([draw.kept for draw in drawn], level)),
        Figure(chosen.precision, *interval(precisions, level)),
    )


def _sorted(episodes: Sequence[ScoredLabels]) -> _Sorted:
    confidence = np.concatenate([labels.confidence for labels in episodes]).astype(np.float64)
    right = np.concatenate([labels.right for labels in episodes])
    episode = np.repeat(np.arange(len(episodes)), [len(labels.right) for labels in episodes])
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    last = np.append(sorted_confidence[1:] != sorted_confidence[:-1], True)[: len(order)]
    return _Sorted(sorted_confidence, right[order], episode[order], last)


def _choose(rows: _Sorted, weights: np.ndarray, precision: float) -> Threshold:
    row_weights = weights[rows.episode]
    kept, right = np.cumsum(row_weights), np.cumsum(row_weights * rows.right)
    reached = np.flatnonzero(rows.last & (kept > 0) & (right >= precision * kept - 1e-9))
    if not len(reached):
        return Threshold(float("nan"), 0.0, float("nan"))
    end = reached[-1]
    return Threshold(float(rows.confidence[end]), float(kept[end] / kept[-1]), float(right[end] / kept[end]))
