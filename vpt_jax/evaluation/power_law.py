"""Power laws of scaling: least-squares fits in log space, with intervals from a bootstrap of the runs."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vpt_jax.evaluation.resampling import Interval, interval

_GRID = 200  # constants that are tried, as shares of the smallest y
_MIN_PLACES = 3  # different x for a fit, which has two parameters
_MIN_PLACES_WITH_CONSTANT = 4


class PowerLaw(NamedTuple):
    """The curve y = scale * (x / centre)^-exponent + constant."""

    scale: float
    exponent: float
    constant: float
    centre: float  # geometric mean of the x of the fit

    def at(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Values of y."""
        return self.scale * (x / self.centre) ** -self.exponent + self.constant


class PowerLawFit(NamedTuple):
    """A fit to runs, with intervals over the runs."""

    law: PowerLaw
    exponent: Interval
    drawn: tuple[PowerLaw, ...]  # fits to the bootstrap's samples

    def interval_at(self, x: Float[np.ndarray, " n"]) -> list[Interval]:
        """The middle 95% of the drawn curves at each x."""
        return [interval(values) for values in np.stack([law.at(x) for law in self.drawn], axis=1).tolist()]


def fit_power_law(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> PowerLaw:
    """Fit a power law to positive points, by least squares of log y.

    The constant is fitted if there are points at four or more different x, and 0 otherwise: it is the best of a grid,
    then of a finer one around it.
    """
    centre = float(np.exp(np.log(x).mean()))
    log_x = np.log(x / centre)
    shares = np.zeros(1)
    if len(np.unique(x)) >= _MIN_PLACES_WITH_CONSTANT:
        coarse = np.linspace(0, 1, _GRID, endpoint=False)
        best = _fit_constants(log_x, y, coarse * y.min())[2] / y.min()
        shares = np.unique(np.clip(best + np.linspace(-1, 1, _GRID) / _GRID, 0, coarse[-1]))
    return PowerLaw(*_fit_constants(log_x, y, shares * y.min()), centre)


def _fit_constants(
    log_x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], constants: Float[np.ndarray, " c"]
) -> tuple[float, float, float]:
    """Scale, exponent and constant of the best fit with one of the constants."""
    above = y - constants[:, None]
    # An error of log(y - constant) is one of log y, multiplied by this, to the first order.
    weights = (above / y) ** 2
    weights /= weights.sum(1, keepdims=True)
    log_above = np.log(above)
    mean_x, mean_y = ((weights * values).sum(1, keepdims=True) for values in (log_x, log_above))
    slopes = (weights * (log_x - mean_x) * log_above).sum(1) / (weights * (log_x - mean_x) ** 2).sum(1)
    scales = np.exp(mean_y[:, 0] - slopes * mean_x[:, 0])
    fitted = scales[:, None] * np.exp(slopes[:, None] * log_x) + constants[:, None]
    best = np.square(np.log(fitted / y)).sum(1).argmin()
    return float(scales[best]), float(-slopes[best]), float(constants[best])


def fit_runs(runs: Mapping[float, Sequence[float]], draws: int = 200, seed: int = 0) -> PowerLawFit | None:
    """Fit a power law to runs, with a bootstrap that resamples the runs at each x.

    Args:
        runs: values of y of the runs by x, all positive.
        draws: samples of the bootstrap.
        seed: of the samples.

    Returns:
        The fit, or None if there are fewer than three different x, or a value that is not positive.
    """
    if len(runs) < _MIN_PLACES or min(*runs, *(min(values) for values in runs.values())) <= 0:
        return None
    rng = np.random.default_rng(seed)
    x = np.concatenate([np.full(len(values), place) for place, values in runs.items()])
    drawn = []
    for _ in range(draws):
        y = np.concatenate([rng.choice(np.asarray(values, float), len(values)) for values in runs.values()])
        drawn.append(fit_power_law(x, y))
    law = fit_power_law(x, np.concatenate([np.asarray(values, float) for values in runs.values()]))
    return PowerLawFit(law, interval([one.exponent for one in drawn]), tuple(drawn))
