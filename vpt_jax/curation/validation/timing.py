"""Timing of a recording: whether the shift between its actions and its frames is constant, drifts, or jumps.

Shifts are counted as in `alignment.py`: actions that belong to frame t are stored at step t + shift, so a positive
shift is late. A shift that grows from start to end means that the actions' clock runs fast. A jump by k > 0 means
that k frames of the video were dropped (or k steps of null actions inserted), by k < 0 that frames were repeated (or
actions lost): log-likelihoods show only how the two move against each other.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int

from vpt_jax.curation.validation.blocks import along, overdispersion, paired_z, to_blocks
from vpt_jax.curation.validation.drift import DriftLine, find_line
from vpt_jax.curation.validation.jumps import ShiftSteps, find_steps, jump_z

MIN_DRIFT_Z = 3.0


@dataclass(frozen=True)
class Jump:
    """A lasting change of the shift. Field names are JSON keys in `validate.json`."""

    frame: int  # the first with the new shift
    frames: int  # dropped if positive, repeated if negative
    z: float


@dataclass(frozen=True)
class Timing:
    """Shift over time. Field names are JSON keys in `validate.json`."""

    start: float = 0.0  # frames by which actions come too late at the first frame
    end: float = 0.0  # and at the last
    start_z: float = 0.0  # z score of the log-likelihood up to the first jump over that of no displacement
    drift: float = 0.0  # frames that they come later with every frame; 0 if there is no drift
    drift_error: float = 0.0  # standard error
    drift_z: float = 0.0  # z score of the log-likelihood over that of a constant shift
    jumps: tuple[Jump, ...] = ()

    @property
    def is_constant(self) -> bool:
        """True without drift and jumps."""
        return not self.drift and not self.jumps

    def path(self, frames: int) -> Int[np.ndarray, " n"]:
        """Shift of every frame of a recording of so many."""
        if self.drift:
            return DriftLine(self.start, self.end, 0.0).path(frames)
        shifts = np.cumsum([int(self.start), *(jump.frames for jump in self.jumps)])
        return ShiftSteps((0, *(jump.frame for jump in self.jumps)), tuple(shifts.tolist())).path(frames)

    def as_dict(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """Makes it from the fields of `as_dict`."""
        return cls(**{**fields, "jumps": tuple(Jump(**jump) for jump in fields["jumps"])})


def measure_timing(surface: Float[np.ndarray, "n shifts"], constant: int) -> Timing:
    """Measures the timing from the likelihood surface.

    A line and steps are each accepted only if they beat the constant shift, here and in any order of the blocks. If
    both do, the one with the higher likelihood is chosen, after a penalty for the steps' parameters (the Bayesian
    information criterion, with log-likelihoods divided by their overdispersion).

    Args:
        surface: log-likelihoods, by shift from -(shifts // 2) on.
        constant: the most likely constant shift.
    """
    frames = len(surface)
    steps, line = find_steps(surface), find_line(surface)
    flat = np.full(frames, constant)
    line_z = 0.0 if line is None else _z_over(surface, line.path(frames), flat)
    if line is not None and line_z >= MIN_DRIFT_Z and not _prefers_steps(surface, steps, line):
        share = (line.end - line.start) / frames
        return Timing(line.start, line.end, drift=share, drift_error=line.error / frames, drift_z=line_z)
    if len(steps.starts) == 1:
        return Timing(constant, constant)
    sizes, z = np.diff(steps.shifts).tolist(), jump_z(surface, steps)
    jumps = tuple(Jump(*jump) for jump in zip(steps.starts[1:], sizes, z, strict=True))
    first = slice(steps.starts[1])
    start_z = _z_over(surface[first], steps.path(frames)[first], 0 * flat[first])
    return Timing(steps.shifts[0], steps.shifts[-1], start_z, jumps=jumps)


def _prefers_steps(surface: Float[np.ndarray, "n shifts"], steps: ShiftSteps, line: DriftLine) -> bool:
    """True if the steps are more likely, or the line has one step only: a frame can be either, and is called a jump."""
    if len(steps.starts) == 1:
        return False
    paths = steps.path(len(surface)), line.path(len(surface))
    if len(np.unique(paths[1])) <= 2:
        return True
    scale = min(overdispersion(surface, path) for path in paths)
    gain = (along(surface, paths[0]) - along(surface, paths[1])).sum() / scale
    more = 2 * len(steps.starts) - 1 - 2
    return bool(gain > more / 2 * np.log(len(to_blocks(surface))))


def _z_over(
    surface: Float[np.ndarray, "n shifts"], path: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]
) -> float:  # fmt: skip
    return paired_z(to_blocks(along(surface, path) - along(surface, other)))
