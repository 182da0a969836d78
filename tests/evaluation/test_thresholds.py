"""Thresholds by hand, by trying all of them, and their intervals; the bootstrap against its definition."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vpt_jax.evaluation.resampling import bootstrap_weights, figures_with_intervals, interval, sum_episodes
from vpt_jax.evaluation.thresholds import ScoredLabels, choose_threshold, threshold_figures


def labels(*pairs):
    return ScoredLabels(np.array([pair[0] for pair in pairs], np.float32), np.array([pair[1] for pair in pairs], bool))


def test_thresholds_by_hand():
    some = labels((0.9, 1), (0.8, 0), (0.7, 1), (0.6, 1), (0.5, 0), (0.5, 1), (0.1, 0))
    assert choose_threshold(some, 0.75) == pytest.approx((np.float32(0.6), 4 / 7, 3 / 4))
    # The first label alone is right; from the second on, 1/2, 2/3, 3/4, and 4/6 with both of 0.5, never one alone.
    assert choose_threshold(some, 1.0) == pytest.approx((np.float32(0.9), 1 / 7, 1))
    assert choose_threshold(some, 0.66) == pytest.approx((np.float32(0.5), 6 / 7, 4 / 6))
    assert choose_threshold(some, 0.5) == pytest.approx((np.float32(0.1), 1, 4 / 7))


def test_a_precision_that_is_not_reached_keeps_nothing():
    threshold = choose_threshold(labels((0.9, 0), (0.8, 1)), 0.9)
    assert np.isnan(threshold.confidence)
    assert threshold.kept == 0


ROWS = st.lists(st.tuples(st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0]), st.booleans()), min_size=1, max_size=30)


@settings(deadline=None)
@given(ROWS, st.sampled_from([0.5, 0.8, 0.9, 1.0]))
def test_the_threshold_keeps_the_most_labels(rows, precision):
    some = labels(*rows)
    chosen = choose_threshold(some, precision)
    valid = [value for value in set(some.confidence) if some.right[some.confidence >= value].mean() >= precision - 1e-9]
    if not valid:
        assert np.isnan(chosen.confidence)
        return
    kept = some.confidence >= np.float32(chosen.confidence)
    assert chosen.confidence == min(valid)
    assert chosen.kept == pytest.approx(kept.mean())
    assert chosen.precision == pytest.approx(some.right[kept].mean())


def test_intervals_are_over_episodes():
    same = labels((0.9, 1), (0.8, 1), (0.3, 0), (0.2, 0))
    figures = threshold_figures([same] * 5, 1.0, draws=20)
    assert figures.confidence == pytest.approx((np.float32(0.8),) * 3)
    assert figures.kept == pytest.approx((0.5,) * 3)
    # In one of two episodes the labels of 0.8 are wrong: draws of it alone keep fewer.
    other = labels((0.9, 1), (0.8, 0), (0.3, 0), (0.2, 0))
    figures = threshold_figures([same, other], 0.75, draws=200)
    assert figures.confidence == pytest.approx((np.float32(0.8), np.float32(0.8), np.float32(0.9)))
    assert figures.precision == pytest.approx((0.75, 0.5, 1.0))


class Sums(NamedTuple):
    frames: np.ndarray
    pair: tuple


class Pair(NamedTuple):
    right: np.ndarray
    all: np.ndarray


def test_the_bootstrap_resamples_episodes():
    episodes = [Sums(np.asarray(n), Pair(np.array([r, 0]), np.array([n, 0]))) for n, r in ((10, 9), (20, 4), (5, 5))]

    def share(sums):
        return {"share": sums.pair.right[0] / sums.frames, "none": float("nan")}

    figures = figures_with_intervals(episodes, share, draws=500)
    drawn = [w @ [9, 4, 5] / (w @ [10, 20, 5]) for w in bootstrap_weights(3, 500)]
    assert figures["share"].value == pytest.approx(18 / 35)
    assert figures["share"][1:] == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert np.isnan(figures["none"]).all()
    assert sum_episodes(episodes).pair.all.tolist() == [35, 0]
    assert all(weights.sum() == 3 for weights in bootstrap_weights(3, 10))


def test_draws_without_a_value_do_not_count():
    assert interval([1.0, float("nan"), 1.0]) == (1, 1)
    assert np.isnan(interval([float("nan")])).all()
