"""Jumps of the shift between actions and frames, where frames were dropped or repeated: a search for change points.

The recording is cut where two constant shifts explain it better than one, and so on in both parts.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vpt_jax.curation.validation.blocks import along, beats_shuffles, block_frames, paired_z, to_blocks
from vpt_jax.video import FRAME_RATE

MIN_SEGMENT = 5 * FRAME_RATE  # frames of constant shift; a jump nearer to an end or to another is not found
MIN_JUMP_Z = 3.0


class ShiftSteps(NamedTuple):
    """A shift that is constant between jumps."""

    starts: tuple[int, ...]  # first frame of every segment
    shifts: tuple[int, ...]  # frames, of every segment

    def path(self, frames: int) -> Int[np.ndarray, " n"]:
        """Shift of every frame."""
        return np.repeat(self.shifts, np.diff([*self.starts, frames]))


def find_steps(surface: Float[np.ndarray, "n shifts"]) -> ShiftSteps:
    """The shifts between significant jumps; a single one if there are none."""
    cuts = [0, *_cuts(surface, 0)]
    while True:
        steps = _fit(surface, cuts)
        z = jump_z(surface, steps)
        if not z or min(z) >= MIN_JUMP_Z:
            return steps
        weakest = 1 + int(np.argmin(z))
        cuts = [start for i, start in enumerate(steps.starts) if i != weakest]


def jump_z(surface: Float[np.ndarray, "n shifts"], steps: ShiftSteps) -> list[float]:
    """Scores (z) of all jumps: the log-likelihood of the segments around it over one constant shift for both."""
    ends = [*steps.starts, len(surface)]
    return [
        _cut_z(surface[before:after], cut - before)
        for before, cut, after in zip(ends[:-2], ends[1:-1], ends[2:], strict=True)
    ]


def _cuts(surface: Float[np.ndarray, "n shifts"], first: int) -> list[int]:
    """First frames of the segments after the first one; `surface` begins at frame `first`."""
    size = block_frames(len(surface))
    if len(surface) < 2 * max(MIN_SEGMENT, size):
        return []
    blocks, least = to_blocks(surface), -(-MIN_SEGMENT // size)
    gain, after = _best_cut(blocks, least)
    if gain <= 0:
        return []
    cut = _exact_cut(surface, after * size)
    if _cut_z(surface, cut) < MIN_JUMP_Z or not beats_shuffles(lambda order: _best_cut(order, least)[0], blocks):
        return []
    return [*_cuts(surface[:cut], first), first + cut, *_cuts(surface[cut:], first + cut)]


def _best_cut(blocks: Float[np.ndarray, "blocks shifts"], least: int) -> tuple[float, int]:
    """Log-likelihood that the best cut gains over none, and the blocks before it: `least` or more on both sides."""
    before = blocks.cumsum(0)
    left, right = before[least - 1 : len(blocks) - least], before[-1] - before[least - 1 : len(blocks) - least]
    if not len(left):
        return 0.0, 0
    scores = left.max(1) + right.max(1)
    best = int(scores.argmax())
    return float(scores[best] - before[-1].max()), best + least


def _exact_cut(surface: Float[np.ndarray, "n shifts"], near: int) -> int:
    """The frame at which the shift changes from the best one before `near` to the best one after it."""
    left, right = (_best_column(part) for part in (surface[:near], surface[near:]))
    favours_left = (surface[:, left].astype(np.float64) - surface[:, right]).cumsum()
    allowed = favours_left[MIN_SEGMENT - 1 : len(surface) - MIN_SEGMENT]
    return int(allowed.argmax()) + MIN_SEGMENT


def _cut_z(surface: Float[np.ndarray, "n shifts"], cut: int) -> float:
    columns = [_best_column(part) for part in (surface[:cut], surface[cut:])]
    reach = surface.shape[1] // 2
    path = np.repeat(columns, [cut, len(surface) - cut]) - reach
    constant = np.full(len(surface), _best_column(surface) - reach)
    return paired_z(to_blocks(along(surface, path) - along(surface, constant)))


def _fit(surface: Float[np.ndarray, "n shifts"], cuts: list[int]) -> ShiftSteps:
    """The best shift of every segment; equal neighbours are joined, and cuts moved to their exact frames."""
    columns = [_best_column(part) for part in np.split(surface, cuts[1:])]
    kept = [i for i in range(len(cuts)) if not i or columns[i] != columns[i - 1]]
    starts = [cuts[i] for i in kept]
    for i in range(1, len(starts)):
        before, after = starts[i - 1], [*starts, len(surface)][i + 1]
        starts[i] = before + _exact_cut(surface[before:after], starts[i] - before)
    reach = surface.shape[1] // 2
    return ShiftSteps(tuple(starts), tuple(columns[i] - reach for i in kept))


def _best_column(surface: Float[np.ndarray, "n shifts"]) -> int:
    return int(surface.sum(0, dtype=np.float64).argmax())
