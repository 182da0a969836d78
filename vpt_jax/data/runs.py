"""Runs of consecutive true values."""

import numpy as np
from jaxtyping import Bool, Int64


def find_runs(flags: Bool[np.ndarray, " n"]) -> Int64[np.ndarray, "runs 2"]:
    """Start and end, the first position after it, of each run of True; in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2)
