"""Blocks of a likelihood surface, and tests of one shift over time against another.

A *surface* has, for every frame and every shift, the log-likelihood of the actions that many frames later at this
frame. A *path* is a shift for every frame. Neighbouring frames are strongly correlated, so that tests use sums over
blocks of at least a second.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int, Shaped

from vpt_jax.video import FRAME_RATE

MAX_BLOCKS = 300  # of longer recordings, blocks are longer
SHUFFLES = 100
MAX_REACHED = 1  # of them, that may do as well
_NEIGHBOURS = np.array([-4, -2, -1, 1, 2, 4])  # frames


def block_frames(frames: int) -> int:
    """Frames of a block: a whole number of seconds."""
    return FRAME_RATE * -(-frames // (FRAME_RATE * MAX_BLOCKS))


def to_blocks(values: Shaped[np.ndarray, "n ..."]) -> Float[np.ndarray, "blocks ..."]:
    """Sums over the blocks of a recording; the last frames, if they fill no block, are left out."""
    size = block_frames(len(values))
    whole = values[: len(values) // size * size]
    return whole.reshape(-1, size, *values.shape[1:]).sum(1, dtype=np.float64)


def along(surface: Float[np.ndarray, "n shifts"], path: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Log-likelihood of every frame along a path; shifts beyond the surface are clipped to its edge."""
    reach = surface.shape[1] // 2
    return surface[np.arange(len(surface)), np.clip(path + reach, 0, 2 * reach)].astype(np.float64)


def paired_z(gains: Float[np.ndarray, " blocks"]) -> float:
    """Sum of the differences between two paths over its standard error, from the blocks in which the paths differ."""
    differ = gains[gains != 0]
    if len(differ) < 2:
        return 0.0
    error = differ.std(ddof=1) * np.sqrt(len(differ))
    return float(min(differ.sum() / max(error, 1e-9), 999.0))


def beats_shuffles(
    statistic: Callable[[Float[np.ndarray, "blocks shifts"]], float], blocks: Float[np.ndarray, "blocks shifts"]
) -> bool:
    """True if a statistic of the blocks is larger than in all but `MAX_REACHED` of `SHUFFLES` random orders of them.

    If the shift does not change with time, all orders are equally likely, so this happens in two recordings of a
    hundred; however many paths the statistic is the maximum of.
    """
    rng, reached, wanted = np.random.default_rng(0), 0, statistic(blocks)
    for _ in range(SHUFFLES):
        reached += statistic(blocks[rng.permutation(len(blocks))]) >= wanted
        if reached > MAX_REACHED:
            return False
    return True


def overdispersion(surface: Float[np.ndarray, "n shifts"], path: Int[np.ndarray, " n"]) -> float:
    """Factor by which log-likelihoods are too certain, since neighbouring frames are not independent; at least 1.

    Of independent, calibrated predictions, the log-likelihood that a wrong shift loses has a variance of about twice
    its mean. The median over shifts near the path is taken.
    """
    best = along(surface, path)
    losses = np.stack([to_blocks(best - along(surface, path + shift)) for shift in _NEIGHBOURS])
    means = losses.mean(1)
    if not (means > 0).any():
        return 1.0
    return max(1.0, float(np.median(losses.var(1, ddof=1)[means > 0] / (2 * means[means > 0]))))
