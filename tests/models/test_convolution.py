"""The convolution's custom gradient compared with the one that JAX derives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vpt_jax.models.convolution import MAX_CHUNKS, MIN_IMAGES, conv3x3

SINGLE, HALF = (jnp.float32, 1e-5), (jnp.bfloat16, 1e-2)
MOST = 2 * MIN_IMAGES * MAX_CHUNKS


@pytest.mark.parametrize(
    ("images", "dtype", "tolerance"),
    [(2 * MIN_IMAGES + 3, *SINGLE), (2 * MIN_IMAGES + 3, *HALF)]
    + [pytest.param(n, *kind, marks=pytest.mark.slow) for n in (1, MIN_IMAGES, MOST) for kind in (SINGLE, HALF)],
)
def test_gradients_equal_those_of_jax(images, dtype, tolerance):
    keys = jax.random.split(jax.random.key(images), 3)
    x, kernel = jax.random.normal(keys[0], (images, 48, 48, 2), dtype), jax.random.normal(keys[1], (3, 3, 2, 4), dtype)
    upstream = jax.random.normal(keys[2], (images, 48, 48, 4), dtype)

    def gradients(conv):
        return jax.jit(jax.grad(lambda x, kernel: (conv(x, kernel) * upstream).sum(), (0, 1)))(x, kernel)

    for actual, expected in zip(gradients(conv3x3), gradients(conv3x3.fun), strict=True):
        assert actual.dtype == dtype
        actual, expected = (np.asarray(gradient, np.float32) for gradient in (actual, expected))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize(("images", "convolutions"), [(MIN_IMAGES, 1), (3 * MIN_IMAGES, 3), (1000, MAX_CHUNKS)])
def test_kernel_gradient_is_accumulated_over_chunks_on_cpus(images, convolutions):
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((images, 48, 48, 2), (3, 3, 2, 4))]
    kernel_gradient = jax.jit(jax.grad(lambda kernel, x: conv3x3(x, kernel).sum() ** 2))
    text = kernel_gradient.trace(*shapes[::-1]).lower(lowering_platforms=("cpu",)).as_text()
    assert text.count("stablehlo.convolution") == 1 + convolutions
    text = kernel_gradient.trace(*shapes[::-1]).lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("stablehlo.convolution") == 2
