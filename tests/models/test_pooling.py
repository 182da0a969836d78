"""Max pooling compared with Flax's, and with a convolution as one: values and gradients, including ties."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.models.convolution import conv3x3
from vpt_jax.models.pooling import conv_max_pool, max_pool


def weighted(pool):
    weights = jax.random.normal(jax.random.key(1), (2, 4, 6, 3))
    return lambda *inputs: (pool(*inputs) * weights).sum()


@pytest.mark.parametrize("levels", [2, 1000])
def test_max_pool_equals_that_of_flax(levels):
    x = jax.random.randint(jax.random.key(levels), (2, 8, 12, 3), 0, levels).astype(jnp.float32)
    flax_pool = lambda x: nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # noqa: E731
    np.testing.assert_array_equal(max_pool(x), flax_pool(x))
    np.testing.assert_allclose(jax.grad(weighted(max_pool))(x), jax.grad(weighted(flax_pool))(x), rtol=1e-6)


@pytest.mark.parametrize("levels", [2, 1000])
def test_convolution_and_max_pool_as_one_equal_both(levels):
    """Whole numbers: all sums are exact, so that equal pixels are equal in both and the first gets the gradient."""
    x = jax.random.randint(jax.random.key(levels), (2, 8, 12, 5), 0, levels).astype(jnp.float32)
    kernel = jax.random.randint(jax.random.key(2), (3, 3, 5, 3), -1, 2).astype(jnp.float32)
    both = lambda x, kernel: max_pool(conv3x3(x, kernel))  # noqa: E731
    np.testing.assert_array_equal(conv_max_pool(x, kernel), both(x, kernel))
    gradients = [jax.jit(jax.grad(weighted(pool), (0, 1)))(x, kernel) for pool in (conv_max_pool, both)]
    for joined, apart in zip(*gradients, strict=True):
        np.testing.assert_allclose(joined, apart, rtol=1e-5, atol=1e-5 * np.abs(apart).max())
