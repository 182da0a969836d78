"""Fits of power laws to points with known exponents."""

import numpy as np
import pytest

from vpt_jax.evaluation.power_law import fit_power_law, fit_runs


@pytest.mark.parametrize(("scale", "exponent", "constant"), [(3.0, 0.5, 0.0), (2.0, 0.3, 1.5), (0.1, -0.4, 0.0)])
def test_exact_points_give_the_exact_law(scale, exponent, constant):
    x = np.array([1e3, 1e4, 1e5, 1e6, 1e7])
    y = scale * (x / 1e5) ** -exponent + constant
    law = fit_power_law(x, y)
    assert (law.exponent, law.constant) == (pytest.approx(exponent, abs=1e-3), pytest.approx(constant, abs=1e-2))
    np.testing.assert_allclose(law.at(x), y, rtol=1e-4)


def test_three_places_give_no_constant():
    x = np.array([1.0, 10.0, 100.0])
    law = fit_power_law(x, 2 * x**-0.5 + 1)
    assert law.constant == 0
    assert 0 < law.exponent < 0.5


def test_the_interval_over_runs_has_the_true_exponent_and_narrows_with_the_noise():
    x = np.array([1.0, 3.0, 10.0, 30.0])
    rng = np.random.default_rng(0)
    widths = []
    for noise in (0.1, 0.01):
        runs = {place: place**-0.7 * np.exp(noise * rng.normal(size=4)) for place in x.tolist()}
        fit = fit_runs(runs, draws=60)
        low, high = fit.exponent
        assert low < fit.law.exponent < high
        widths.append(high - low)
        for (bottom, top), y in zip(fit.interval_at(x), fit.law.at(x), strict=True):
            assert bottom <= y <= top
    assert widths[1] < 0.3 * widths[0]
    assert fit == fit_runs(runs, draws=60)


def test_too_few_places_and_values_that_are_not_positive_have_no_fit():
    assert fit_runs({1.0: [1.0], 2.0: [0.9]}) is None
    assert fit_runs({1.0: [1.0], 2.0: [0.9], 3.0: [0.0]}) is None
    assert fit_runs({0.0: [1.0], 2.0: [0.9], 3.0: [0.5]}) is None
    assert fit_runs({1.0: [1.0], 2.0: [0.9], 3.0: [0.5]}, draws=2) is not None
