"""A 3x3 convolution whose training step is fast on CPUs too; docs/speed.md has the figures."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vpt_jax.parallel import is_sharded

# Images per chunk of the kernel's gradient: about as many pixels as fit a core's cache.
MIN_IMAGES, MAX_IMAGES, PIXELS = 8, 64, 2**14
MAX_CHUNKS = 16  # more take long to compile


@jax.custom_vjp
def conv3x3(x: Float[Array, "n h w in"], kernel: Float[Array, "3 3 in out"]) -> Float[Array, "n h w out"]:
    """3x3 convolution with stride 1 and zero padding ("SAME"), with a gradient of its own (`jax.custom_vjp`).

    The gradient is XLA's, except that on CPUs the kernel's is accumulated over chunks of images: over all images at
    once it is up to three times as slow. There is no forward-mode derivative (`jax.jvp`).
    """
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv3x3(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], output_gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    (x_gradient,) = jax.linear_transpose(lambda x: conv3x3.fun(x, kernel), x)(output_gradient)
    at_once, in_chunks = partial(_kernel_gradient, kernel), partial(_chunked_kernel_gradient, kernel)
    if is_sharded():  # slicing rows that lie on several devices would move them
        return x_gradient, at_once(x, output_gradient)
    return x_gradient, jax.lax.platform_dependent(x, output_gradient, cpu=in_chunks, default=at_once)


def _kernel_gradient(kernel: Array, x: Array, output_gradient: Array) -> Array:
    return jax.linear_transpose(lambda kernel: conv3x3.fun(x, kernel), kernel)(output_gradient)[0]


def _chunked_kernel_gradient(kernel: Array, x: Array, output_gradient: Array) -> Array:
    """Gradient accumulation over chunks of images, in float32."""
    n, height, width, _ = x.shape
    images = max(MIN_IMAGES, min(MAX_IMAGES, PIXELS // (height * width)), -(-n // MAX_CHUNKS))
    slices = (slice(i, i + images) for i in range(0, n, images))
    first, *others = (_kernel_gradient(kernel, x[s], output_gradient[s]).astype(jnp.float32) for s in slices)
    return sum(others, first).astype(kernel.dtype)


conv3x3.defvjp(_forward, _backward)
