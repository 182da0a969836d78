"""Max pooling compared with Flax's: values and gradients, including ties."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.models.pooling import max_pool


@pytest.mark.parametrize("levels", [2, 1000])
def test_max_pool_equals_that_of_flax(levels):
    x = jax.random.randint(jax.random.key(levels), (2, 8, 12, 3), 0, levels).astype(jnp.float32)
    weights = jax.random.normal(jax.random.key(1), (2, 4, 6, 3))

    def weighted(pool):
        return lambda x: (pool(x) * weights).sum()

    flax_pool = lambda x: nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # noqa: E731
    np.testing.assert_array_equal(max_pool(x), flax_pool(x))
    np.testing.assert_allclose(jax.grad(weighted(max_pool))(x), jax.grad(weighted(flax_pool))(x), rtol=1e-6)
