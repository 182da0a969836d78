"""Intervals against published values and simulated coverage."""

import math

import numpy as np
import pytest

from vpt_jax.evaluation.resampling import mean_figure, wilson_figure


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (1, 10, 0.0179, 0.4042), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0)],
)
def test_wilson_intervals(successes, trials, low, high):
    """Values of the score interval without continuity correction, as of R's `prop.test(correct = FALSE)`."""
    figure = wilson_figure(successes, trials)
    assert figure == pytest.approx((successes / trials, low, high), abs=1e-4)


def test_intervals_of_nothing_are_undefined():
    assert all(math.isnan(value) for value in (*wilson_figure(0, 0), *mean_figure(np.zeros(0))))
    assert math.isnan(mean_figure(np.array([1.0, math.nan])).value)


def test_bootstrap_intervals_of_means_have_their_coverage():
    rng = np.random.default_rng(0)
    figures = [mean_figure(rng.normal(3, 2, 40), draws=200) for _ in range(100)]
    assert 88 <= sum(figure.low <= 3 <= figure.high for figure in figures) <= 99
    assert mean_figure(np.full(5, 2.0)) == (2, 2, 2)
    one = mean_figure(np.array([2.0]))
    assert one.value == 2
    assert math.isnan(one.low)  # one episode says nothing about the others
