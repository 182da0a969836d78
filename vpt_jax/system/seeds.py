"""Seeds of up to 64 bits, such as time stamps and hashes: validation, and seeds of episodes (PRNG keys: `keys.py`)."""

import operator
from typing import Any

from vpt_jax.system.errors import UserError

NUM_SEEDS = 2**64
_NUM_EPISODE_SEEDS = 2**52  # games get seeds as JSON, and Lua's numbers are exact up to 2**53


class SeedError(UserError, ValueError):
    """A seed that is not a whole number from 0 to 2**64 - 1; the message names it."""


def check_seed(seed: Any, name: str = "the seed") -> int:
    """Validate a seed and return it as an `int`.

    Args:
        seed: an integer of Python, NumPy or JAX.
        name: the name used in the error message, such as `config.seed`.

    Raises:
        SeedError: the seed is negative, too large, or not a whole number.
    """
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < NUM_SEEDS:
        raise SeedError(f"{name} is {seed!r}, and must be a whole number from 0 to 2**64 - 1")
    return number


def episode_seed(seed: int) -> int:
    """Seed of the first episode of a game: `seed` modulo 2**52. Later episodes increment it."""
    return check_seed(seed) % _NUM_EPISODE_SEEDS
