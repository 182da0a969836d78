"""3x3 max-pool with stride 2, by itself (for CPUs) and as one with the 3x3 convolution before it (for accelerators)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def max_pool(x: Float[Array, "n h w c"]) -> Float[Array, "n h/2 w/2 c"]:
    """3x3 max-pool with stride 2, padding 1, for even height and width; of equal values the first gets the gradient.

    Same result as `nn.max_pool`. The gradient is computed by selections (`jnp.where`): XLA's own takes four times as
    long on CPUs and is slow elsewhere too. Columns are pooled first, so that ties are resolved in row-major order.
    """
    for axis in (2, 1):
        even, odd = _even_and_odd(x, axis)
        x = _max_of_three(even, odd, axis)
    return x


def conv_max_pool(x: Float[Array, "n h w in"], kernel: Float[Array, "3 3 in out"]) -> Float[Array, "n h/2 w/2 out"]:
    """`max_pool` of a 3x3 convolution with zero padding, of even height and width: the same values and gradients.

    Four convolutions with stride 2 compute the pixels of even and odd rows and columns, so that the maximum needs no
    strided access: on TPUs that takes longer than the convolution itself.
    """

    def pixels(row: int, column: int) -> Array:
        padding = (1 - row, row), (1 - column, column)
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    even, odd = (_max_of_three(pixels(row, 0), pixels(row, 1), axis=2) for row in range(2))
    return _max_of_three(even, odd, axis=1)


def _even_and_odd(x: Float[Array, "n h w c"], axis: int) -> list[Array]:
    """Every second position along an axis, from the first and from the second."""
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    return [jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2)]


def _max_of_three(even: Float[Array, "n h w c"], odd: Float[Array, "n h w c"], axis: int) -> Float[Array, "n h w c"]:
    """The maximum of every even position and its two neighbours along an axis; of equals the first."""
    before = jax.lax.pad(odd, jnp.array(-jnp.inf, odd.dtype), [(int(i == axis), -int(i == axis), 0) for i in range(4)])
    largest = jnp.where(even > before, even, before)
    return jnp.where(odd > largest, odd, largest)
