"""Confidence intervals over episodes, since frames of one are correlated: bootstrap, and Wilson's for shares."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

Sums = Any  # a named tuple of arrays that add up over episodes; its fields may be such tuples again
Interval = tuple[float, float]


class Figure(NamedTuple):
    """A figure and its confidence interval; NaN where it is not defined."""

    value: float
    low: float
    high: float


def bootstrap_weights(episodes: int, draws: int = 1000, seed: int = 0) -> Iterator[Int[np.ndarray, " episodes"]]:
    """Yields, for every draw, how often each episode is in a sample with replacement of as many episodes."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(episodes, size=episodes), minlength=episodes)


def sum_episodes(episodes: Sequence[Sums]) -> Sums:
    """Sums of all episodes, field by field."""
    return _weighted(np.ones(len(episodes)), _stacked(episodes))


def figures_with_intervals(
    episodes: Sequence[Sums],
    compute: Callable[[Sums], Mapping[str, float]],
    level: float = 0.95,
    draws: int = 1000,
) -> dict[str, Figure]:
    """Figures of all episodes, each with the interval that spans the middle `level` of the bootstrap's draws.

    A draw in which a figure is missing or NaN (of a key that none of its episodes presses) does not count for it.

    Args:
        episodes: sums of every episode.
        compute: figures by name from the sums of some episodes.
        level: share of the draws in the interval.
        draws: samples of the episodes.
    """
    stacked = _stacked(episodes)
    drawn = [compute(_weighted(weights, stacked)) for weights in bootstrap_weights(len(episodes), draws)]
    values = compute(_weighted(np.ones(len(episodes)), stacked))
    return {
        name: Figure(float(value), *interval([figures.get(name, np.nan) for figures in drawn], level))
        for name, value in values.items()
    }


def interval(drawn: Sequence[float], level: float = 0.95) -> Interval:
    """The middle `level` of the values that are not NaN; NaN if there is none."""
    values = np.asarray(drawn, np.float64)
    defined = values[~np.isnan(values)]
    if not len(defined):
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_figure(values: Float[np.ndarray, " episodes"], level: float = 0.95, draws: int = 1000) -> Figure:
    """Mean of one value per episode, with its bootstrap interval; NaN without episodes, or if a value is NaN.

    One episode says nothing about the others: its mean has no interval (NaN).
    """
    if not len(values) or np.isnan(values).any():
        return Figure(math.nan, math.nan, math.nan)
    if len(values) == 1:
        return Figure(float(values[0]), math.nan, math.nan)
    drawn = [float(weights @ values) / len(values) for weights in bootstrap_weights(len(values), draws)]
    return Figure(float(np.mean(values)), *interval(drawn, level))


def wilson_figure(successes: int, trials: int, level: float = 0.95) -> Figure:
    """Share of successes, with its Wilson score interval (Wilson 1927); NaN without trials.

    Unlike that of the bootstrap, the interval of a share of 0 or 1 is not empty.
    """
    if not trials:
        return Figure(math.nan, math.nan, math.nan)
    z, share = NormalDist().inv_cdf((1 + level) / 2), successes / trials
    centre = share + z**2 / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    low, high = ((centre + sign * half) / (1 + z**2 / trials) for sign in (-1, 1))
    return Figure(share, max(low, 0.0), min(high, 1.0))


def _stacked(episodes: Sequence[Sums]) -> Sums:
    first = episodes[0]
    if isinstance(first, tuple):
        return type(first)(*(_stacked(field) for field in zip(*episodes, strict=True)))  # type: ignore[call-arg]
    return np.stack([np.asarray(part, np.float64) for part in episodes])


def _weighted(weights: np.ndarray, stacked: Sums) -> Sums:
    if isinstance(stacked, tuple):
        return type(stacked)(*(_weighted(weights, field) for field in stacked))  # type: ignore[call-arg]
    return np.tensordot(weights, stacked, 1)
