"""Per-cell anomaly scores: distance of each feature-map cell to its nearest clean neighbour.

The method is that of PatchCore, which detects defects (Roth et al., 2022). An overlay is local, and may be anything;
scenes differ far more than the overlays on them. So a picture is not compared as a whole: each cell of its feature map
is compared with the cells at the same place, and those around it, of clean pictures, and the distance to the nearest
is the score.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

MAX_PICTURES = 256  # clean ones in a patch memory, at most
MAX_AXES = 32  # principal axes of a cell's features: those in which clean cells vary most
SHRINKAGE = 0.2  # of the mean variance, added to each: axes of little variance are not amplified
RADIUS = 1  # cells to each side that count as the same place
TOP_DISTANCES = 32  # the largest distances in descending order, regardless of their place
MAX_GRID = 8  # cells per side, at most, whose distances are given by place

CellMap = Float32[np.ndarray, "_n _g _g _c"]  # features of the g*g cells of a picture


class PatchMemory(NamedTuple):
    """Cells of clean pictures on whitened axes, for one feature map (PatchCore's memory bank).

    Field names are array names in the classifier's file. `m`: pictures.
    """

    mean: Float32[np.ndarray, " c"]
    axes: Float32[np.ndarray, "c k"]
    cells: Float32[np.ndarray, "m g g k"]


def build_patch_memory(clean: CellMap) -> PatchMemory:
    """Patch memory of clean pictures: whitened by PCA, and subsampled evenly if there are more than `MAX_PICTURES`."""
    flat = clean.reshape(-1, clean.shape[-1])
    mean = flat.mean(0)
    variances, directions = np.linalg.eigh(np.cov((flat - mean).T).reshape(len(mean), len(mean)))
    scale = np.sqrt(variances + SHRINKAGE * variances.mean() + 1e-12)
    axes = (directions / scale)[:, -MAX_AXES:].astype(np.float32)
    return PatchMemory(mean, axes, (clean[subsample_indices(len(clean))] - mean) @ axes)


def subsample_indices(count: int) -> np.ndarray:
    """Indices of the clean pictures that a patch memory keeps, out of `count`: evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_PICTURES)).astype(int))


def patch_distances(
    cells: CellMap, memory: PatchMemory, ignore: Bool[np.ndarray, "n m"] | None = None
) -> Float32[np.ndarray, "n g g"]:  # fmt: skip
    """Distance of each cell to the nearest cell of the memory at or around its place.

    Args:
        cells: feature maps of `n` pictures.
        memory: cells of `m` clean pictures.
        ignore: pictures of the memory that each picture is not compared with.
    """
    x = (cells - memory.mean) @ memory.axes
    places = memory.cells.transpose(1, 2, 3, 0)  # a matrix for every place
    squared_norms = (places**2).sum(2)
    found = np.empty(x.shape[:3], np.float32)
    for row, column in np.ndindex(found.shape[1:]):
        queries = x[:, row, column]
        nearest = np.full((len(queries), len(memory.cells)), np.inf, np.float32)
        for place in _neighbourhood(row, column, len(places)):
            np.minimum(nearest, (-2 * queries) @ places[place] + squared_norms[place], out=nearest)
        if ignore is not None:
            nearest[ignore] = np.inf
        found[:, row, column] = np.sqrt(np.maximum((queries**2).sum(1) + nearest.min(1), 0))
    return found


def _neighbourhood(row: int, column: int, size: int) -> Iterator[tuple[int, int]]:
    rows, columns = (range(max(0, i - RADIUS), min(size, i + RADIUS + 1)) for i in (row, column))
    return product(rows, columns)


def distance_features(found: Float32[np.ndarray, "n g g"]) -> Float32[np.ndarray, "n d"]:
    """Max-pooled distances on a grid of at most 8x8 cells, followed by the largest distances in descending order."""
    n, g, _ = found.shape
    side = min(g, MAX_GRID)
    pooled = found.reshape(n, side, g // side, side, g // side).max((2, 4)).reshape(n, -1)
    return np.concatenate([pooled, -np.sort(-found.reshape(n, -1), 1)[:, :TOP_DISTANCES]], 1)
