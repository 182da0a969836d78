"""JAX's keys of seeds of up to 64 bits.

JAX takes the lower 32 bits of a seed and drops the others without a word, so seeds that differ above would be one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from vpt_jax.system.seeds import SEEDS, check_seed

_HALF = 2**32


def seed_key(seed: int) -> Array:
    """The raw key (uint32) of a seed: below 2**32 that of `jax.random.PRNGKey`; above, its upper half is folded in."""
    return seed_keys(seed, 1)[0]


def seed_keys(first: int, count: int) -> Array:
    """The raw keys `[count, ...]` of the seeds from `first` on; after the largest seed comes 0."""
    seeds = [(check_seed(first) + i) % SEEDS for i in range(count)]
    low, high = (np.array(half, np.uint32) for half in zip(*(divmod(seed, _HALF)[::-1] for seed in seeds), strict=True))
    keys = jax.vmap(jax.random.PRNGKey)(low)
    if not high.any():
        return keys
    folded = jax.vmap(jax.random.fold_in)(keys, high)
    return jnp.where((high > 0)[:, None], folded, keys)
