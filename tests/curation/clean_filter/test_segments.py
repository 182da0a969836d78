"""From labels of frames to what counts: smoothing, five seconds, four fifths."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vpt_jax.curation.clean_filter.segments import Rules, judge, median_filter, runs

RATE = 3


def labels(text):
    return np.array([letter == "#" for letter in text], bool)


def times(frames):
    return [number / RATE for number in range(frames + 1)]


def text(of):
    return "".join(".#"[int(label)] for label in of)


@pytest.mark.parametrize(("before", "after"), [
    ("#######.#######", "###############"),
    ("###...#########", "###############"),
    ("####....#######", "####....#######"),
    (".#######", ".#######"),  # four of the seven around the first frame are itself: beyond the end it goes on
    ("...#######", "...#######"),
    ("#.........#", "#.........#"),
    ("#", "#"), ("", ""),
])  # fmt: skip
def test_the_label_is_that_of_most_of_seven_frames(before, after):
    assert text(median_filter(labels(before), 7)) == after


@settings(deadline=None)  # the first call imports SciPy
@given(hnp.arrays(bool, st.integers(0, 60)), st.sampled_from([1, 3, 7]))
def test_median_is_that_of_scipy_with_the_ends_repeated(of, kernel):
    from scipy.ndimage import median_filter as expected

    assert median_filter(of, kernel).tolist() == expected(of.astype(int), kernel, mode="nearest").astype(bool).tolist()


@given(hnp.arrays(bool, st.integers(0, 60)))
def test_runs_cover_what_is_true_and_do_not_touch(of):
    found = np.zeros(len(of), int)
    for run in runs(of):
        found[run] += 1
        assert run.start == 0 or not of[run.start - 1]
        assert run.stop == len(of) or not of[run.stop]
    assert found.tolist() == of.astype(int).tolist()


def test_five_seconds_count_and_a_frame_less_does_not():
    rules = Rules(kernel=1, min_share=0)
    verdict = judge(labels("." + 15 * "#" + "." + 14 * "#"), times(31), rules)
    assert [(span.start, span.end) for span in verdict.spans] == [(1 / 3, pytest.approx(16 / 3))]
    assert judge(labels(14 * "#" + "."), times(15), rules).reason == "no 5 s in a row are clean"


def test_a_video_is_kept_from_four_fifths_on():
    kept = judge(labels(80 * "#" + 20 * "."), times(100), Rules())
    assert kept.share == pytest.approx(0.8)
    assert [span[:2] for span in kept.spans] == [(0, pytest.approx(80 / 3))]
    assert kept.reason == ""
    dropped = judge(labels(79 * "#" + 21 * "."), times(100), Rules())
    assert dropped == (pytest.approx(0.79), [], "79% of its frames are clean, and 80% are needed")


def test_a_segment_says_how_many_of_its_frames_were_clean_before_smoothing():
    (span,) = judge(labels(8 * "#" + "." + 11 * "#"), times(20), Rules()).spans
    assert span == (0, pytest.approx(20 / 3), 0.95)


def test_nothing_to_see_is_not_clean():
    assert judge(np.zeros(0, bool), [0.0], Rules()).spans == []


@pytest.mark.parametrize(("pattern", "share", "smooth", "kept"), [
    ("###." * 30, 0.75, 1.0, False),  # the median filter would hide that a quarter is not clean
    (("#" * 12 + "....") * 10, 0.75, 0.75, False),
    (("#" * 14 + "...") * 6, 14 / 17, 1.0, True),
    ("#" * 76 + "..#..#" * 4, 0.84, 0.76, True),  # and would hide here that four fifths are
])  # fmt: skip
def test_the_share_is_that_of_the_labels_before_the_median_filter(pattern, share, smooth, kept):
    """A video is dropped by its labels as they are; only then are they smoothed (fidelity D7)."""
    clean = labels(pattern)
    verdict = judge(clean, times(len(clean)), Rules())
    assert verdict.share == pytest.approx(share)
    assert median_filter(clean, 7).mean() == pytest.approx(smooth, abs=0.04)
    assert bool(verdict.spans) == kept
