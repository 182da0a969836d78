"""Idle and stuck time of episodes whose frames and actions are known."""

import math

import numpy as np

from vpt_jax.actions.minerl import BUTTON_INDEX, MINERL
from vpt_jax.evaluation.behaviour import MAX_DIFFERENCE, STUCK_STEPS, BehaviourTracker

FORWARD = np.zeros(20, np.uint8)
FORWARD[BUTTON_INDEX["forward"]] = 1
NOTHING, STILL = np.zeros(20, np.uint8), np.zeros(2, np.float32)


def track(steps):
    """Tracker of steps, each the brightness of the frame and the keys."""
    tracker = BehaviourTracker(MINERL)
    for brightness, keys in steps:
        tracker.add(np.full((4, 6, 3), brightness, np.uint8), keys, STILL)
    return tracker


def test_idle_is_the_share_of_null_actions():
    assert track([(0, NOTHING)] * 3 + [(0, FORWARD)]).idle == 0.75
    turning = BehaviourTracker(MINERL)
    turning.add(np.zeros((4, 6, 3), np.uint8), NOTHING, np.float32([0, 5]))
    assert turning.idle == 0


def test_stuck_are_windows_with_actions_and_a_still_picture():
    still = round(MAX_DIFFERENCE)
    pushing = [(still * (i % 2), FORWARD) for i in range(STUCK_STEPS)]
    walking = [(4 * i, FORWARD) for i in range(STUCK_STEPS)]
    waiting = [(9, NOTHING)] * STUCK_STEPS
    assert track(pushing).stuck == 1
    assert track(walking).stuck == track(waiting).stuck == 0
    assert track(pushing + walking + waiting + pushing).stuck == 0.5
    assert track(pushing + walking[:-1]).stuck == 1  # the last window is not complete
    half = STUCK_STEPS // 2
    assert track([(9, FORWARD)] * half + [(9, NOTHING)] * half).stuck == 0
    assert track([(250, FORWARD)] + [(5, FORWARD)] * (STUCK_STEPS - 1)).stuck == 0  # no overflow of bytes


def test_shares_of_nothing_are_undefined():
    assert math.isnan(track([]).idle)
    assert math.isnan(track([(0, FORWARD)] * (STUCK_STEPS - 1)).stuck)
