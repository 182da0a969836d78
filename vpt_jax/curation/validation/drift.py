"""Drift of actions against frames: the straight line of shift over time that makes the actions most probable."""

from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vpt_jax.curation.validation.blocks import along, beats_shuffles, overdispersion, to_blocks

MIN_DRIFT = 2  # frames from start to end: one frame of drift cannot be told from a dropped frame
_STEP = 0.1  # frames, of the finest search
_BLOCK_CENTRE = 0.5


class DriftLine(NamedTuple):
    """A shift that changes linearly; in frames, at the first frame and after the last."""

    start: float
    end: float
    error: float  # standard error of `end - start`

    def path(self, frames: int) -> Int[np.ndarray, " n"]:
        """Shift of every frame."""
        return _round(self.start + (self.end - self.start) * (np.arange(frames) + _BLOCK_CENTRE) / frames)


def find_line(surface: Float[np.ndarray, "n shifts"]) -> DriftLine | None:
    """The most likely line; None if no line beats the best constant shift, here and in any order of the blocks."""
    blocks, reach = to_blocks(surface), surface.shape[1] // 2
    ends, paths = _lines(len(blocks), reach)
    best = int(_scores(paths, blocks).argmax())
    gain = partial(_line_gain, paths)
    if gain(blocks) <= 0 or not beats_shuffles(gain, blocks):
        return None
    return _refine(surface, *ends[best])


def _lines(blocks: int, reach: int) -> tuple[Int[np.ndarray, "lines 2"], Int[np.ndarray, "lines blocks"]]:
    """All lines between whole shifts that are at least `MIN_DRIFT` apart; and their columns in the surface."""
    ends = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2, indexing="ij"), -1).reshape(-1, 2)
    ends = ends[np.abs(ends[:, 1] - ends[:, 0]) >= MIN_DRIFT]
    share = (np.arange(blocks) + _BLOCK_CENTRE) / blocks
    return ends, _round(ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * share) + reach


def _scores(
    paths: Int[np.ndarray, "lines blocks"], blocks: Float[np.ndarray, "blocks shifts"]
) -> Float[np.ndarray, " lines"]:
    flat = paths + blocks.shape[1] * np.arange(len(blocks))
    return blocks.ravel().take(flat).sum(1)


def _line_gain(paths: Int[np.ndarray, "lines blocks"], blocks: Float[np.ndarray, "blocks shifts"]) -> float:
    return float(_scores(paths, blocks).max() - blocks.sum(0).max())


def _refine(surface: Float[np.ndarray, "n shifts"], start: int, end: int) -> DriftLine:
    """Mean line, and its spread, under the likelihood of lines that end within a frame of the given one."""
    coarse = DriftLine(start, end, 0.0)
    scale = overdispersion(surface, coarse.path(len(surface)))
    near = np.arange(-1, 1 + _STEP / 2, _STEP)
    lines = np.array([(start + i, end + j) for i in near for j in near])
    scores = np.array([along(surface, DriftLine(a, b, 0.0).path(len(surface))).sum() for a, b in lines])
    weights = np.exp((scores - scores.max()) / scale)
    weights /= weights.sum()
    mean, change = weights @ lines, lines[:, 1] - lines[:, 0]
    variance = weights @ (change - (mean[1] - mean[0])) ** 2
    return DriftLine(float(mean[0]), float(mean[1]), float(np.sqrt(variance + _STEP**2)))


def _round(shifts: Float[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
    return np.floor(shifts + 0.5).astype(np.int64)
