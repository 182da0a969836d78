"""How unlike anything clean each part of a picture is.

An overlay is local, and may be anything; scenes differ far more than what is laid over them. So a picture is not
compared as a whole: each cell of it is compared with the same cell, and those around, of clean pictures, and what
counts is how far the nearest is (as PatchCore finds defects: Roth et al., 2022).
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

PICTURES = 256  # clean ones that are remembered, at most
AXES = 32  # of a cell's description, those in which clean cells differ most
SHRINKAGE = 0.2  # of the mean variance, added to each: axes that hardly differ are not blown up
REACH = 1  # cells to each side that count as the same place
LARGEST = 32  # distances that are given by size too, wherever they are
GRID = 8  # cells per side, at most, whose distances are given by place

CellMap = Float32[np.ndarray, "_n _g _g _c"]  # descriptions of the g*g cells of a picture


class Memory(NamedTuple):
    """Clean cells of one map, on whitened axes."""

    mean: Float32[np.ndarray, " c"]
    axes: Float32[np.ndarray, "c k"]
    cells: Float32[np.ndarray, "m g g k"]


def remember(clean: CellMap) -> Memory:
    """A memory of these clean pictures, which are evenly chosen from if they are many."""
    flat = clean.reshape(-1, clean.shape[-1])
    mean = flat.mean(0)
    variances, directions = np.linalg.eigh(np.cov((flat - mean).T).reshape(len(mean), len(mean)))
    scale = np.sqrt(variances + SHRINKAGE * variances.mean() + 1e-12)
    axes = (directions / scale)[:, -AXES:].astype(np.float32)
    return Memory(mean, axes, (clean[chosen(len(clean))] - mean) @ axes)


def chosen(count: int) -> np.ndarray:
    """Which of so many pictures are remembered."""
    return np.unique(np.linspace(0, count - 1, min(count, PICTURES)).astype(int))


def distances(
    cells: CellMap, memory: Memory, ignore: Bool[np.ndarray, "n m"] | None = None
) -> Float32[np.ndarray, "n g g"]:  # fmt: skip
    """From each cell to the nearest clean one around its place; `ignore`: pictures that do not count for a picture."""
    x = (cells - memory.mean) @ memory.axes
    places = memory.cells.transpose(1, 2, 3, 0)  # a matrix for every place
    lengths = (places**2).sum(2)
    found = np.empty(x.shape[:3], np.float32)
    for row, column in np.ndindex(found.shape[1:]):
        here = x[:, row, column]
        nearest = np.full((len(here), len(memory.cells)), np.inf, np.float32)
        for place in _around(row, column, len(places)):
            np.minimum(nearest, (-2 * here) @ places[place] + lengths[place], out=nearest)
        if ignore is not None:
            nearest[ignore] = np.inf
        found[:, row, column] = np.sqrt(np.maximum((here**2).sum(1) + nearest.min(1), 0))
    return found


def _around(row: int, column: int, size: int) -> Iterator[tuple[int, int]]:
    rows, columns = (range(max(0, at - REACH), min(size, at + REACH + 1)) for at in (row, column))
    return product(rows, columns)


def summary(found: Float32[np.ndarray, "n g g"]) -> Float32[np.ndarray, "n d"]:
    """The distances by place, in at most 8x8 cells, and the largest by size."""
    n, g, _ = found.shape
    places = min(g, GRID)
    by_place = found.reshape(n, places, g // places, places, g // places).max((2, 4)).reshape(n, -1)
    return np.concatenate([by_place, -np.sort(-found.reshape(n, -1), 1)[:, :LARGEST]], 1)
