"""Calibration of models whose errors are known; the temperature against SciPy's minimum."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from vpt_jax.evaluation.calibration import (
    BINS,
    TEMPERATURES,
    at_temperature,
    calibration_errors,
    fit_temperature,
    reliability_curve,
    reliability_totals,
    temperature_losses,
)


def test_the_error_by_hand():
    # First kind: two cases of 0.9, one true: gap 0.4; two of 0.2, none true: gap 0.2. Second kind: all as predicted.
    probability = np.array([[0.9, 1.0], [0.9, 1.0], [0.2, 0.0], [0.2, 0.0]])
    true = np.array([[1, 1], [0, 1], [0, 0], [0, 0]], bool)
    totals = reliability_totals(probability, true)
    assert calibration_errors(totals) == pytest.approx([(2 * 0.4 + 2 * 0.2) / 4, 0])
    mean, share, cases = reliability_curve(totals)
    assert cases[0].nonzero()[0].tolist() == [2, 9]  # 0.2 is in [0.2, 0.3), and 1 in the last bin
    assert (mean[0, 9], share[0, 9], share[0, 2]) == pytest.approx((0.9, 0.5, 0))
    assert np.isnan(mean[0, 5])
    assert cases.shape == (2, BINS)


def test_opposite_gaps_in_different_bins_do_not_cancel():
    totals = reliability_totals(np.array([[0.75], [0.25]]), np.array([[False], [True]]))
    assert calibration_errors(totals) == pytest.approx([0.75])


def test_kinds_without_cases_have_no_error():
    assert np.isnan(calibration_errors(reliability_totals(np.zeros((0, 3)), np.zeros((0, 3), bool)))).all()


def test_probabilities_drawn_from_themselves_are_calibrated():
    rng = np.random.default_rng(0)
    probability = rng.random((40_000, 2))
    true = rng.random(probability.shape) < probability
    assert (calibration_errors(reliability_totals(probability, true)) < 0.01).all()
    assert (calibration_errors(reliability_totals(probability**0.5, true)) > 0.1).all()


def sampled(temperature, count=4000, seed=0):
    """Log-probabilities of a model that is too sure by a factor, and classes drawn from the true distribution."""
    rng = np.random.default_rng(seed)
    true = log_softmax(rng.normal(0, 1.5, (count, 3, 5)), -1)
    chosen = (true + rng.gumbel(size=true.shape)).argmax(-1)
    return log_softmax(true * temperature, -1), chosen


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.3])
def test_the_temperature_is_that_of_maximum_likelihood(temperature):
    log_probs, chosen = sampled(temperature)

    def loss(log_temperature):
        scaled = log_softmax(log_probs / np.exp(log_temperature), -1)
        return -np.take_along_axis(scaled, chosen[..., None], -1).sum()

    best = np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded", options={"xatol": 1e-8}).x)
    fitted = fit_temperature(temperature_losses(log_probs, chosen))
    assert fitted == pytest.approx(best, rel=1e-3)
    assert fitted == pytest.approx(temperature, rel=0.1)


def test_losses_add_up_over_episodes():
    log_probs, chosen = sampled(2, 50)
    parts = temperature_losses(log_probs[:20], chosen[:20]) + temperature_losses(log_probs[20:], chosen[20:])
    np.testing.assert_allclose(parts, temperature_losses(log_probs, chosen))


def test_a_head_without_choices_has_temperature_one():
    assert fit_temperature(temperature_losses(np.zeros((9, 0, 2)), np.zeros((9, 0), int))) == 1


def test_at_temperature_one_nothing_changes():
    log_probs, _ = sampled(1, 10)
    np.testing.assert_allclose(at_temperature(log_probs, 1.0), log_probs, atol=1e-12)
    assert np.isclose(TEMPERATURES, 1).any()


def test_extreme_models_stay_within_the_range():
    certain = np.log(np.array([[[1 - 1e-6, 1e-6]]] * 50))
    right = temperature_losses(certain, np.zeros((50, 1), int))
    wrong = temperature_losses(certain, np.tile([[0], [1]], (25, 1)))
    assert TEMPERATURES[0] <= fit_temperature(right) < 1 < fit_temperature(wrong) <= TEMPERATURES[-1] * 1.001
