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


def test_each_seed_has_a_fit_of_its_own_and_they_differ_less_with_less_noise():
    x = np.array([1.0, 3.0, 10.0, 30.0])
    rng = np.random.default_rng(0)
    spreads = []
    for noise in (0.1, 0.01):
        runs = {place: place**-0.7 * np.exp(noise * rng.normal(size=4)) for place in x.tolist()}
        fit = fit_runs(runs)
        exponents = [law.exponent for law in fit.by_seed]
        assert fit.by_seed[2] == fit_power_law(x, np.array([values[2] for values in runs.values()]))
        assert min(exponents) < fit.law.exponent < max(exponents)
        spreads.append(np.std(exponents))
    assert spreads[1] < 0.5 * spreads[0]
    runs[30.0] = runs[30.0][:2]
    assert len(fit_runs(runs).by_seed) == 2  # those with a run at every x


def test_too_few_places_and_values_that_are_not_positive_have_no_fit():
    assert fit_runs({1.0: [1.0], 2.0: [0.9]}) is None
    assert fit_runs({1.0: [1.0], 2.0: [0.9], 3.0: [0.0]}) is None
    assert fit_runs({0.0: [1.0], 2.0: [0.9], 3.0: [0.5]}) is None
    assert fit_runs({1.0: [1.0], 2.0: [0.9], 3.0: [0.5]}) is not None
