"""Repeated frames of a moving scene are found by their pixels, and still scenes are not."""

import numpy as np
import pytest

from vpt_jax.curation.validation.repeats import MIN_REPEATS, find_repeats, pixel_changes

MOVING, TURNING = np.full(100, 90), np.ones(100, bool)


def changes_with(start, count, change=0):
    changes = MOVING.copy()
    changes[start : start + count] = change
    return changes


def test_changes_are_the_largest_of_any_pixel():
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames[1, 2, 3, 1] = 200
    frames[2, 2, 3, 1], frames[2, 0, 0, 0] = 190, 7
    assert pixel_changes(frames).tolist() == [255, 200, 10]
    assert pixel_changes(frames[1:], frames[0]).tolist() == [200, 10]
    assert pixel_changes(frames[:0]).tolist() == []


def test_a_run_is_found_with_its_length():
    assert find_repeats(changes_with(40, 5), TURNING).tolist() == [[40, 5]]
    assert find_repeats(changes_with(40, 5, change=9), TURNING).tolist() == [[40, 5]]  # encoded again
    both = np.minimum(changes_with(20, 4), changes_with(60, 30))
    assert find_repeats(both, TURNING).tolist() == [[20, 4], [60, 30]]


@pytest.mark.parametrize(
    ("changes", "turns"),
    [
        (changes_with(40, MIN_REPEATS - 1), TURNING),
        (changes_with(40, 5, change=30), TURNING),  # a slow turn, or a mouse cursor
        (changes_with(40, 5), ~TURNING),  # the player stands still
        (changes_with(40, 20), np.arange(100) < 45),  # stops turning
        (np.full(100, 2), TURNING),  # in the dark
        (changes_with(0, 5), TURNING),
        (changes_with(95, 5), TURNING),
    ],
)
def test_still_scenes_are_not_repeats(changes, turns):
    assert find_repeats(changes, turns).shape == (0, 2)
