"""PRNG keys of JAX from seeds of up to 64 bits.

JAX silently drops all but the lower 32 bits of a seed, so seeds that differ only in the upper bits would be the same.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vpt_jax.system.seeds import NUM_SEEDS, check_seed

_HALF = 2**32


def seed_key(seed: int) -> Array:
    """Raw PRNG key (uint32) of a seed: that of `jax.random.PRNGKey`, with bits above the lower 32 folded in."""
    return seed_keys(seed, 1)[0]


def seed_keys(first: int, count: int) -> Array:
    """Raw PRNG keys `[count, ...]` of `count` consecutive seeds from `first`; the largest seed wraps around to 0."""
    seeds = [(check_seed(first) + i) % NUM_SEEDS for i in range(count)]
    low, high = (np.array(half, np.uint32) for half in zip(*(divmod(seed, _HALF)[::-1] for seed in seeds), strict=True))
    keys = jax.vmap(jax.random.PRNGKey)(low)
    if not high.any():
        return keys
    folded = jax.vmap(jax.random.fold_in)(keys, high)
    return jnp.where((high > 0)[:, None], folded, keys)
