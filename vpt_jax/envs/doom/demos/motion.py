"""Turns of the view, measured in the frames, and by how much the recorded turns come too late or too early.

Phase correlation (OpenCV) gives the shift between two frames. Turning moves the whole picture sideways, walking does
not on average, so over many frames shifts and turns correlate, and best where the turns belong. No model is needed.
Ranks are correlated (Spearman), since the shift of a fast turn may be anything.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from vpt_jax.video import Frame

MAX_SHIFT = 6  # frames
PARTS = 4  # of a recording, for drift
WIDTH = 107  # pixels of the frames that are compared; details of larger ones mislead phase correlation
_HEIGHT, _ROWS = 60, 40  # and the rows above the weapon
_MIN_CORRELATION, _MIN_TURNS = 0.2, 40
_SLOW = (1.0, 10.0)  # degrees per frame, of turns whose shift is measured well


@dataclass(frozen=True)
class TurnAlignment:
    """Fit of recorded turns to frames. Field names are JSON keys."""

    late: int  # frames by which the turns come too late, where the correlation is highest; 0: aligned
    late_by_part: tuple[int | None, ...]  # the same in each of `PARTS` parts, None where the player hardly turned
    correlation: float  # at `late`
    pixels_per_degree: float  # of frames `WIDTH` wide, the median; about 0.6 in a view of 90 degrees at 4:3


def image_shifts(frames: Iterable[Frame]) -> Iterator[float]:
    """Yields the sideways shift in pixels of each frame against the one before it; 0 for the first.

    Positive is to the right: the view turned left. Pixels are those of frames `WIDTH` wide.
    """
    window, before = cv2.createHanningWindow((WIDTH, _ROWS), cv2.CV_32F), None
    for frame in frames:
        small = cv2.resize(frame, (WIDTH, _HEIGHT), interpolation=cv2.INTER_AREA)[:_ROWS]
        now = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float32)
        yield 0.0 if before is None else float(cv2.phaseCorrelate(before, now, window)[0][0])
        before = now


def turn_alignment(shifts: Float[np.ndarray, " n"], degrees: Float[np.ndarray, " n"]) -> TurnAlignment | None:
    """Measures by how many frames turns are displaced; None if the player hardly turned, or the two do not correlate.

    Args:
        shifts: of every frame against the one before it (`image_shifts`).
        degrees: turn between the same two frames as recorded, positive to the right.
    """
    late, correlation = _best(shifts, degrees)
    if late is None:
        return None
    edges = np.linspace(0, len(shifts), PARTS + 1).astype(int)
    parts = tuple(_best(shifts[a:b], degrees[a:b])[0] for a, b in pairwise(edges))
    moved, turned = _overlap(shifts, degrees, late)
    slow = (np.abs(turned) > _SLOW[0]) & (np.abs(turned) < _SLOW[1])
    scale = float(np.median(-moved[slow] / turned[slow])) if slow.any() else 0.0
    return TurnAlignment(late, parts, correlation, scale)


def _best(shifts: Float[np.ndarray, " n"], degrees: Float[np.ndarray, " n"]) -> tuple[int | None, float]:
    inner = slice(2 * MAX_SHIFT, -2 * MAX_SHIFT)  # frames that take part at every displacement
    if np.count_nonzero(degrees[inner]) < _MIN_TURNS or not np.ptp(degrees[inner]) or not np.ptp(shifts[inner]):
        return None, 0.0
    lates = range(-MAX_SHIFT, MAX_SHIFT + 1)
    values = [-float(spearmanr(*_overlap(shifts, degrees, late)).statistic) for late in lates]
    best = int(np.argmax(values))
    return (lates[best], values[best]) if values[best] > _MIN_CORRELATION else (None, values[best])


def _overlap(
    shifts: Float[np.ndarray, " n"], degrees: Float[np.ndarray, " n"], late: int
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Both series with the turns moved forward by `late` frames, on the frames where all displacements are defined."""
    rows = np.arange(MAX_SHIFT, len(shifts) - MAX_SHIFT)
    return shifts[rows], degrees[rows + late]
