"""Calibration of predicted probabilities: reliability curves, expected calibration error (ECE), temperature.

A probability is calibrated if what it gives p comes true in the share p of the cases (Guo et al., 2017, "On Calibration
of Modern Neural Networks", whose ECE and temperature scaling these are). Sums add up over episodes.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

BINS = 10  # of equal width
TEMPERATURES = np.geomspace(1 / 8, 8, 97)  # an even number of steps on both sides of 1


class ReliabilityTotals(NamedTuple):
    """Sums of the cases whose probability is in each of `BINS` bins of [0, 1], for some kinds of prediction."""

    cases: Float64[np.ndarray, "kinds bins"]
    probability: Float64[np.ndarray, "kinds bins"]
    true: Float64[np.ndarray, "kinds bins"]


def reliability_totals(
    probability: Float[np.ndarray, "n kinds"], true: Bool[np.ndarray, "n kinds"]
) -> ReliabilityTotals:
    """Sums of one episode.

    Args:
        probability: predicted, of an event such as "this key is held" or "this label is right".
        true: where the event was so.
    """
    kinds = probability.shape[1]
    bins = np.clip((probability * BINS).astype(np.int64), 0, BINS - 1)  # a bin includes its lower end
    place = (np.arange(kinds) * BINS + bins).ravel()

    def sums(weights: np.ndarray) -> np.ndarray:
        flat = np.asarray(weights, np.float64).ravel()
        return np.bincount(place, flat, kinds * BINS).reshape(kinds, BINS)

    return ReliabilityTotals(sums(np.ones_like(bins)), sums(probability), sums(true))


def calibration_errors(totals: ReliabilityTotals) -> Float64[np.ndarray, " kinds"]:
    """ECE of each kind: mean over the cases of |share that came true - mean probability| of their bin; NaN of none."""
    cases = np.asarray(totals.cases).sum(-1)
    gaps = np.abs(np.asarray(totals.true) - np.asarray(totals.probability)).sum(-1)
    return np.where(cases > 0, gaps / np.maximum(cases, 1), np.nan)


def reliability_curve(totals: ReliabilityTotals) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share that came true, and cases of every bin, `[kinds, bins]`; NaN in empty bins."""
    cases = np.asarray(totals.cases)
    safe = np.where(cases > 0, cases, np.nan)
    return np.asarray(totals.probability) / safe, np.asarray(totals.true) / safe, cases


def at_temperature(
    log_probs: Float[np.ndarray, "*shape classes"], temperature: float
) -> Float64[np.ndarray, "*shape classes"]:
    """Log-probabilities after division by a temperature, normalized again."""
    scaled = np.asarray(log_probs, np.float64) / temperature
    top = scaled.max(-1, keepdims=True)
    return scaled - top - np.log(np.exp(scaled - top).sum(-1, keepdims=True))


def temperature_losses(
    log_probs: Float[np.ndarray, "n choices classes"], chosen: Int[np.ndarray, "n choices"]
) -> Float64[np.ndarray, " temperatures"]:
    """Negative log-likelihood in nats of an episode's recorded choices, at each of `TEMPERATURES`."""
    index = chosen[..., None].astype(np.int64)
    return np.array([-np.take_along_axis(at_temperature(log_probs, value), index, -1).sum() for value in TEMPERATURES])


def fit_temperature(losses: Float[np.ndarray, " temperatures"]) -> float:
    """The maximum-likelihood temperature, given the losses of all episodes at each of `TEMPERATURES`.

    The loss is convex in 1 / temperature; its minimum is that of the parabola, in log temperature, through the best
    value and its two neighbours. One scalar for all choices of a head; 1 if it has none.
    """
    if np.ptp(losses) == 0:
        return 1.0
    best = int(np.clip(np.argmin(losses), 1, len(TEMPERATURES) - 2))
    left, middle, right = (float(losses[best + i]) for i in (-1, 0, 1))
    curvature = left - 2 * middle + right
    offset = (left - right) / (2 * curvature) if curvature > 0 else 0.0
    step = np.log(TEMPERATURES[1] / TEMPERATURES[0])
    return float(TEMPERATURES[best] * np.exp(np.clip(offset, -1, 1) * step))
