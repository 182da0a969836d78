"""Seeds of up to 64 bits, and invalid seeds."""

import jax
import numpy as np
import pytest

from vpt_jax.keys import seed_key, seed_keys
from vpt_jax.system.seeds import SeedError, check_seed, episode_seed


def test_keys_of_32_bit_seeds_equal_those_of_jax():
    for seed in (0, 5, 2**31 - 1, 2**31, 2**32 - 1):
        np.testing.assert_array_equal(seed_key(seed), jax.random.PRNGKey(seed))
        np.testing.assert_array_equal(
            jax.random.key_data(jax.random.wrap_key_data(seed_key(seed))), jax.random.key_data(jax.random.key(seed))
        )


def test_all_64_bits_of_a_seed_are_used():
    seeds = [5, 2**31 + 5, 2**32 + 5, 2**33 + 5, 2**63 + 5, 2**64 - 1, 1_764_421_234_567_890_123]
    assert len({np.asarray(seed_key(seed)).tobytes() for seed in seeds}) == len(seeds)
    assert len({episode_seed(seed) for seed in seeds}) == len(seeds) - 1  # games: 52 bits
    assert episode_seed(10_000_000) == 10_000_000


@pytest.mark.parametrize("first", [0, 2**31 - 2, 2**32 - 2, 2**64 - 2])
def test_parallel_games_have_the_keys_of_their_own_seeds(first):
    keys = seed_keys(first, 4)
    for i in range(4):
        np.testing.assert_array_equal(keys[i], seed_key((first + i) % 2**64))


def test_integers_of_numpy_are_accepted():
    assert check_seed(np.uint32(2**32 - 1)) == 2**32 - 1
    assert type(check_seed(np.int64(3))) is int


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, True, "7", None])
def test_invalid_seeds_are_refused_by_name(seed):
    with pytest.raises(SeedError, match=r"config\.seed is .* 2\*\*64 - 1"):
        check_seed(seed, "config.seed")
