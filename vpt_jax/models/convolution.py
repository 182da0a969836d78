"""A 3x3 convolution whose training step is fast on CPUs too; docs/speed.md has the figures."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vpt_jax.parallel import is_split

# Images whose share of a kernel's gradient is computed together: as many pixels as stay in a core's cache.
MIN_IMAGES, MAX_IMAGES, PIXELS = 8, 64, 2**14
MAX_CHUNKS = 16  # more would take long to compile


@jax.custom_vjp
def conv3x3(x: Float[Array, "n h w in"], kernel: Float[Array, "3 3 in out"]) -> Float[Array, "n h w out"]:
    """Stride 1, zeros beyond the border.

    The gradient is XLA's, but that the kernel's is added up from some images at a time on CPUs: of all images at once
    it is up to three times as slow. There is no forward-mode derivative (`jax.jvp`).
    """
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv3x3(x, kernel), (x, kernel)


def _backward(inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = inputs
    (of_x,) = jax.linear_transpose(lambda x: conv3x3.fun(x, kernel), x)(gradient)
    at_once = partial(_of_kernel, kernel)
    if is_split():  # to cut rows that lie on several devices would move them
        return of_x, at_once(x, gradient)
    return of_x, jax.lax.platform_dependent(x, gradient, cpu=partial(_in_chunks, kernel), default=at_once)


def _of_kernel(kernel: Array, x: Array, gradient: Array) -> Array:
    return jax.linear_transpose(lambda kernel: conv3x3.fun(x, kernel), kernel)(gradient)[0]


def _in_chunks(kernel: Array, x: Array, gradient: Array) -> Array:
    n, height, width, _ = x.shape
    images = max(MIN_IMAGES, min(MAX_IMAGES, PIXELS // (height * width)), -(-n // MAX_CHUNKS))
    parts = (_of_kernel(kernel, x[i : i + images], gradient[i : i + images]) for i in range(0, n, images))
    first, *others = (part.astype(jnp.float32) for part in parts)
    return sum(others, first).astype(kernel.dtype)


conv3x3.defvjp(_forward, _backward)
