"""Running normalizer of the value head's targets (paper, appendix G.1; reference `lib/normalize_ewma.py`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from vpt_jax.actions.quantizer import Array

VARIANCE_FLOOR = 1e-2
DEBIAS_FLOOR = 1e-5


class ValueNormalizer(NamedTuple):
    """Running mean and mean square of the value targets: an exponential moving average (EWMA) with bias correction.

    These are statistics, not trained parameters.
    """

    mean: Float[Array, " outputs"]
    mean_square: Float[Array, " outputs"]
    debias: Float[Array, ""]

    @classmethod
    def create(cls, outputs: int = 1) -> "ValueNormalizer":
        """Create a normalizer without any data: mean 0, variance at its floor."""
        return cls(jnp.zeros(outputs), jnp.zeros(outputs), jnp.zeros(()))

    def update(
        self, targets: Float[Array, "... outputs"], valid: Bool[Array, "..."], decay: float = 0.99999
    ) -> "ValueNormalizer":
        """Update the statistics with the valid targets of a batch; the whole batch is one step of the average."""
        count, flat = valid.sum(), targets.reshape(-1, targets.shape[-1]) * valid.reshape(-1, 1)
        mean, mean_square = (values.sum(0) / jnp.maximum(count, 1) for values in (flat, flat**2))
        batch = ValueNormalizer(mean, mean_square, jnp.ones(()))
        weight = jnp.where(count > 0, 1 - decay, 0)  # a batch without valid targets changes nothing
        return jax.tree.map(lambda old, new: (1 - weight) * old + weight * new, self, batch)

    def moments(self) -> tuple[Float[Array, " outputs"], Float[Array, " outputs"]]:
        """Mean and variance, with the correction of the bias towards the initial zeros."""
        debias = jnp.maximum(self.debias, DEBIAS_FLOOR)
        mean = self.mean / debias
        return mean, jnp.maximum(self.mean_square / debias - mean**2, VARIANCE_FLOOR)

    def normalize(self, values: Float[Array, "... outputs"]) -> Float[Array, "... outputs"]:
        """Normalize values to mean 0 and variance 1 of the targets."""
        mean, variance = self.moments()
        return (values - mean) / jnp.sqrt(variance)

    def denormalize(self, values: Float[Array, "... outputs"]) -> Float[Array, "... outputs"]:
        """Undo `normalize`: convert normalized values back to the unit of the targets."""
        mean, variance = self.moments()
        return values * jnp.sqrt(variance) + mean
