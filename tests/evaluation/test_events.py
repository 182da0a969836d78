"""Matching of events against SciPy's maximum matching; metrics of presses and releases against manual counts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from vpt_jax.actions.quantizer import AxisQuantizer
from vpt_jax.actions.space import ActionSpace, Axis
from vpt_jax.evaluation.events import compute_event_metrics, count_matches, event_totals, key_changes, previous

SPACE = ActionSpace("two keys", ("run", "jump"), (Axis("x", quantizer=AxisQuantizer()),))


def held(*rows):
    """Keys `[n, keys]` from a row of 0 and 1 for each key."""
    return np.array([[int(c) for c in row] for row in rows], np.uint8).T


EVENTS = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=14)


@settings(deadline=None)
@given(EVENTS, st.integers(0, 3))
def test_matches_are_as_many_as_possible(rows, tolerance):
    table = np.array(rows)
    recorded, predicted = table[:, :2], table[:, 2:]
    counts = count_matches(recorded, predicted, tolerance)
    for series in range(2):
        true, found = np.flatnonzero(recorded[:, series]), np.flatnonzero(predicted[:, series])
        near = np.abs(true[:, None] - found[None]) <= tolerance
        best = (maximum_bipartite_matching(csr_array(near.astype(int))) >= 0).sum() if near.size else 0
        assert counts[series] == best


def test_no_event_is_matched_twice_nor_with_another_key():
    recorded = np.array([[1, 0], [0, 0], [0, 0], [0, 1]], bool)
    predicted = np.array([[0, 1], [1, 0], [0, 0], [0, 0]], bool)
    assert count_matches(recorded, predicted, 1).tolist() == [1, 0]
    both = np.array([[1], [0], [1]], bool)
    assert count_matches(both, np.array([[0], [1], [0]], bool), 1).tolist() == [1]  # one prediction, two events


def test_presses_and_releases_are_changes_of_state():
    keys = held("110011", "001000")
    presses, releases = key_changes(keys, previous(keys))
    assert np.flatnonzero(presses[:, 0]).tolist() == [4]  # what was before frame 0 is not known
    assert np.flatnonzero(releases[:, 0]).tolist() == [2]
    assert (np.flatnonzero(presses[:, 1]).tolist(), np.flatnonzero(releases[:, 1]).tolist()) == ([2], [3])


def test_metrics_equal_manual_counts():
    recorded = held("00111100000", "00000000100")  # run: press 2, release 6; jump: press 8, release 9
    predicted = held("00011100011", "00001000000")  # run: press 3, 9, release 6; jump: press 4, release 5
    figures = compute_event_metrics(SPACE, event_totals(predicted, recorded))
    assert figures["event_precision/run"] == pytest.approx(2 / 3)  # the press at 3 is one frame late
    assert figures["event_recall/run"] == 1
    assert figures["event_f1/run"] == pytest.approx(4 / 5)
    assert figures["event_f1/jump"] == figures["event_precision/jump"] == figures["event_recall/jump"] == 0
    assert figures["event_f1/mean"] == pytest.approx((4 / 5 + 0) / 2)
    assert figures["event_f1"] == pytest.approx(2 * 2 / (5 + 4))
    assert figures["press_f1"] == pytest.approx(2 * 1 / (3 + 2))
    assert figures["release_f1"] == pytest.approx(2 * 1 / (2 + 2))
    exact = compute_event_metrics(SPACE, event_totals(predicted, recorded, tolerance=0))
    assert exact["event_f1/run"] == pytest.approx(2 * 1 / 5)  # only the release is in its frame


def test_repeating_the_last_true_action_finds_nothing():
    recorded = held("0011110000110", "0101010100000")
    repeated = previous(recorded)
    given_state = compute_event_metrics(SPACE, event_totals(repeated, recorded, given_previous=True))
    assert given_state["event_f1/mean"] == given_state["event_recall"] == given_state["event_precision"] == 0
    # As keys of its own, which is no prediction of an event, it is the recording one frame late.
    alone = compute_event_metrics(SPACE, event_totals(repeated, recorded))
    assert alone["event_recall/run"] == pytest.approx(3 / 4)  # that of the last release would come after the end


def test_play_without_events_has_no_scores():
    still = held("11111", "00000")
    figures = compute_event_metrics(SPACE, event_totals(still, still))
    assert np.isnan([figures["event_f1"], figures["event_recall"], figures["event_f1/mean"]]).all()
    assert not any(name.endswith("/run") for name in figures)


def test_an_episode_of_one_frame_has_no_event():
    one = held("1", "0")
    assert event_totals(one, one).found.tolist() == [[0, 0], [0, 0]]
