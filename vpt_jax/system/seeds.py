"""Seeds of up to 64 bits, such as time stamps and hashes: which are refused, and those of games (keys: `keys.py`)."""

import operator
from typing import Any

SEEDS = 2**64
_EPISODES = 2**52  # games get seeds as JSON, and Lua's numbers are exact up to 2**53


class SeedError(ValueError):
    """A seed that is no whole number from 0 to 2**64 - 1; the message names it."""


def check_seed(seed: Any, name: str = "the seed") -> int:
    """The seed as an `int`.

    Args:
        seed: an integer of Python, NumPy or JAX.
        name: what to call it in the message, such as `config.seed`.

    Raises:
        SeedError: it is negative, too large, or no whole number.
    """
    try:
        number = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        number = -1
    if not 0 <= number < SEEDS:
        raise SeedError(f"{name} is {seed!r}, and must be a whole number from 0 to 2**64 - 1")
    return number


def episode_seed(seed: int) -> int:
    """The seed of a game's first episode: the seed itself below 2**52. Those of further episodes count up."""
    return check_seed(seed) % _EPISODES
