"""Repeated frames, by the pixels: runs of equal frames in a moving scene, while the camera turns.

A frame that was repeated before the video was encoded differs a little afterwards, so that equal bytes are no test.
"""

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8

from vpt_jax.data.runs import find_runs

# The largest change of a pixel of a repeated frame. H.264 changes them by up to 10, seldom 17; a mouse cursor by more.
MAX_CHANGE = 12
MIN_SCENE_CHANGE = 4 * MAX_CHANGE  # before and after: in the dark, or at a wall, frames may be equal in truth
MIN_REPEATS = 4  # frames; in 254 recordings of Doom, three were equal to the one before once, and four never


def pixel_changes(
    frames: UInt8[np.ndarray, "n h w 3"], before: UInt8[np.ndarray, "h w 3"] | None = None
) -> Int[np.ndarray, " n"]:  # fmt: skip
    """The largest change of a pixel of every frame from the one before it; 255 for a first frame."""
    if not len(frames):
        return np.zeros(0, np.int64)
    first = np.full((1, *frames.shape[1:]), 0, np.uint8) if before is None else before[None]
    earlier = np.concatenate([first, frames[:-1]])
    changes = (np.maximum(frames, earlier) - np.minimum(frames, earlier)).max((1, 2, 3)).astype(np.int64)
    if before is None:
        changes[0] = 255
    return changes


def find_repeats(changes: Integer[np.ndarray, " n"], turns: Bool[np.ndarray, " n"]) -> Int[np.ndarray, "runs 2"]:
    """First repeated frame, and number of them, of every run.

    The camera must turn in half of a run's steps and in `MIN_REPEATS`; and the picture must change just before and
    just after, so that a run at an end of the recording is not found.

    Args:
        changes: from `pixel_changes`.
        turns: steps in which the camera turns; the action of step t shows in frame t + 1.
    """
    runs = find_runs(changes <= MAX_CHANGE)  # first still frame, first moving one
    found = [
        (start, stop - start)
        for start, stop in runs.tolist()
        if 0 < start and stop < len(changes)
        and min(changes[start - 1], changes[stop]) >= MIN_SCENE_CHANGE
        and turns[start - 1 : stop - 1].sum() >= max(MIN_REPEATS, (stop - start) / 2)
    ]  # fmt: skip
    return np.array(found, np.int64).reshape(-1, 2)
