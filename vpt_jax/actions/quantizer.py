"""Quantization of an axis (camera, cursor) to bins, linear or mu-law (paper, appendix C.2).

The reference has it in `lib/actions.py`. NumPy and jitted code agree on the bin of every float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Array = Any  # np.ndarray or jax.Array; recording and labelling use actions without JAX


MAX_BINS = 1001  # of an axis


@dataclass(frozen=True)
class AxisQuantizer:
    """Quantizes movement per step to `2 * maximum / bin_size + 1` bins; the middle bin is no movement.

    Values are clipped to `maximum`, compressed by the mu-law (not with `mu=None`), and rounded half to even. Binning
    compares with thresholds, so float32 input gets the same bin from NumPy and inside a jitted function. The default is
    the paper's, for camera degrees.
    """

    maximum: float = 10
    bin_size: float = 2
    mu: float | None = 10

    @property
    def num_bins(self) -> int:
        """Number of bins."""
        return round(2 * self.maximum / self.bin_size) + 1

    @property
    def problem(self) -> str:
        """Reason why this quantizer cannot be used, or ""."""
        bins = 2 * self.maximum / self.bin_size
        if not 2 <= bins < MAX_BINS:
            return f"its range has {bins:g} bins and one; from 3 to {MAX_BINS} are possible"
        if abs(bins - 2 * round(bins / 2)) > 1e-6:
            return "`maximum` must be a multiple of `bin_size`, so that the middle bin is no movement"
        if not (np.diff(self.centres) > 0).all() or self.centres[self.null_bin]:
            return f"`mu` is {self.mu}, and bins coincide"
        return ""

    @property
    def null_bin(self) -> int:
        """The bin of no movement."""
        return self.num_bins // 2

    def to_bins(self, values: Float[Array, "..."]) -> Int[Array, "..."]:
        """Bin of every value; NumPy in, NumPy out (int64), JAX in, JAX out (int32)."""
        thresholds = self.thresholds if isinstance(values, np.ndarray) else self._thresholds_float32
        return (values[..., None] >= thresholds).sum(-1)

    def to_values(self, bins: Int[Array, "..."]) -> Float[Array, "..."]:
        """Value at the middle of every bin."""
        return namespace(bins).take(self.centres, bins, axis=0)

    @cached_property
    def centres(self) -> Float[np.ndarray, " bins"]:
        """Value at the middle of every bin."""
        level = np.arange(self.num_bins) * self.bin_size - float(self.maximum)
        if self.mu is None:
            return level
        share = np.abs(level) / self.maximum
        return np.sign(level) * self.maximum * ((1 + self.mu) ** share - 1) / self.mu

    @cached_property
    def thresholds(self) -> Float[np.ndarray, " thresholds"]:
        """The smallest float64 that falls in bin 1, 2, ...; found by bisection, so exact to the last bit."""
        return np.array([_first_at_least(self._bin, k, *self.centres[k - 1 : k + 1]) for k in range(1, self.num_bins)])

    @cached_property
    def _thresholds_float32(self) -> Float[np.ndarray, " thresholds"]:
        """The smallest float32 in each bin: a plain cast could round down and move its neighbour to another bin."""
        rounded = self.thresholds.astype(np.float32)
        return np.where(rounded < self.thresholds, np.nextafter(rounded, np.float32(np.inf)), rounded)

    def _bin(self, value: float) -> int:
        level = float(np.clip(value, -self.maximum, self.maximum))
        if self.mu is not None:
            share = np.log(1 + self.mu * abs(level / self.maximum)) / np.log(1 + self.mu)
            level = np.sign(level) * share * self.maximum
        return int(np.round((level + self.maximum) / self.bin_size))


def _first_at_least(function: Callable[[float], int], level: int, low: float, high: float) -> float:
    """The smallest float in (low, high] where the rising `function` has reached `level`."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if function(middle) >= level else (middle, high)
    return high


def namespace(array: Array) -> ModuleType:
    """NumPy or `jax.numpy`, whichever the array is of."""
    return array.__array_namespace__()
