"""Segments from labels of frames: median filter, minimum of five seconds, minimum share of four fifths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vpt_jax.curation.clean_filter.segments import SegmentRules, median_filter, runs, select_segments

RATE = 3


def labels(text):
    return np.array([letter == "#" for letter in text], bool)


def times(frames):
    return [number / RATE for number in range(frames + 1)]


def text(frame_labels):
    return "".join(".#"[int(label)] for label in frame_labels)


@pytest.mark.parametrize(("before", "after"), [
    ("#######.#######", "###############"),
    ("###...#########", "###############"),
    ("####....#######", "####....#######"),
    (".#######", ".#######"),  # beyond the ends the outermost frame is repeated: it counts four times of seven
    ("...#######", "...#######"),
    ("#.........#", "#.........#"),
    ("#", "#"), ("", ""),
])  # fmt: skip
def test_median_filter_takes_the_majority_of_seven_frames(before, after):
    assert text(median_filter(labels(before), 7)) == after


@settings(deadline=None)  # the first call imports SciPy
@given(hnp.arrays(bool, st.integers(0, 60)), st.sampled_from([1, 3, 7, 99]))
def test_median_is_the_majority_with_the_ends_repeated(values, median_window):
    half = median_window // 2
    padded = [*half * values[:1].tolist(), *values.tolist(), *half * values[-1:].tolist()]
    majority = [sum(padded[i : i + median_window]) > half for i in range(len(values))]
    assert median_filter(values, median_window).tolist() == majority


@given(hnp.arrays(bool, st.integers(0, 60)))
def test_runs_cover_all_true_values_and_are_maximal(values):
    found = np.zeros(len(values), int)
    for run in runs(values):
        found[run] += 1
        assert run.start == 0 or not values[run.start - 1]
        assert run.stop == len(values) or not values[run.stop]
    assert found.tolist() == values.astype(int).tolist()


def test_segments_shorter_than_five_seconds_are_dropped():
    rules = SegmentRules(median_window=1, min_share=0)
    selection = select_segments(labels("." + 15 * "#" + "." + 14 * "#"), times(31), rules)
    assert [(span.start, span.end) for span in selection.spans] == [(1 / 3, pytest.approx(16 / 3))]
    assert select_segments(labels(14 * "#" + "."), times(15), rules).reason == "no 5 s in a row are clean"


def test_videos_are_kept_from_a_clean_share_of_four_fifths_on():
    kept = select_segments(labels(80 * "#" + 20 * "."), times(100), SegmentRules())
    assert kept.share == pytest.approx(0.8)
    assert [span[:2] for span in kept.spans] == [(0, pytest.approx(80 / 3))]
    assert kept.reason == ""
    dropped = select_segments(labels(79 * "#" + 21 * "."), times(100), SegmentRules())
    assert dropped == (pytest.approx(0.79), [], "79% of its frames are clean, and 80% are needed")


def test_clean_share_of_a_segment_is_computed_before_smoothing():
    (span,) = select_segments(labels(8 * "#" + "." + 11 * "#"), times(20), SegmentRules()).spans
    assert span == (0, pytest.approx(20 / 3), 0.95)


def test_a_video_without_frames_is_not_clean():
    assert select_segments(np.zeros(0, bool), [0.0], SegmentRules()).spans == []


@pytest.mark.parametrize(("pattern", "share", "smooth", "kept"), [
    ("###." * 30, 0.75, 1.0, False),  # the median filter would hide that a quarter is not clean
    (("#" * 12 + "....") * 10, 0.75, 0.75, False),
    (("#" * 14 + "...") * 6, 14 / 17, 1.0, True),
    ("#" * 76 + "..#..#" * 4, 0.84, 0.76, True),  # and would hide here that four fifths are clean
])  # fmt: skip
def test_the_share_is_that_of_the_labels_before_the_median_filter(pattern, share, smooth, kept):
    """Videos are dropped by their raw labels, which are smoothed afterwards (fidelity D7)."""
    clean = labels(pattern)
    selection = select_segments(clean, times(len(clean)), SegmentRules())
    assert selection.share == pytest.approx(share)
    assert median_filter(clean, 7).mean() == pytest.approx(smooth, abs=0.04)
    assert bool(selection.spans) == kept
