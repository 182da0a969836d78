"""Basic layers of all models: norm, then dense layer or convolution, then ReLU (reference `lib/util.py`).

A layer with a norm before it has no bias, since the norm has a shift. Parameters and norms are float32. `dtype` is the
precision of the linear map, and of its gradient until that has been summed over devices (docs/scale.md, "Precision").
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vpt_jax.models.convolution import conv3x3
from vpt_jax.models.platform import is_accelerator, target_platform
from vpt_jax.models.remat import name_output

NORM_EPSILON = 1e-5
# Channels of convolutions that XLA:TPU fuses with the norms around them into operations of up to 30 times their cost
# alone. Their result is written to memory first, which changes no number (docs/scale.md, 2x).
_APART_FROM_NORMS = range(96, 192)

# Statistics over the features of one token.
TokenNorm = partial(nn.LayerNorm, epsilon=NORM_EPSILON, use_fast_variance=False)


def ImageNorm(**options: Any) -> nn.LayerNorm:  # noqa: N802 - stands for a module
    """Norm over height, width and channels of one image, scale and shift per channel: GroupNorm with one group.

    On accelerators the variance is E[x^2] - E[x]^2, in float32: one pass over the images. After a ReLU their mean is of
    the size of their spread, so that the difference is accurate.
    """
    return TokenNorm(reduction_axes=(-3, -2, -1), feature_axes=-1, use_fast_variance=is_accelerator(), **options)


def fan_in_normalized(scale: float = 1.0) -> Callable[..., Array]:
    """Kernel initializer for `[..., in, out]`: the weights of every output have Euclidean norm `scale`.

    They are drawn uniformly from (-1, 1), then rescaled, as in the reference.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> Array:
        kernel = jax.random.uniform(key, shape, dtype, minval=-1, maxval=1)
        return kernel * scale / jnp.linalg.norm(kernel.reshape(-1, shape[-1]), axis=0)

    return init


class NormDense(nn.Module):
    """`[..., in] -> [..., features]`: norm, dense, ReLU."""

    features: int
    scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... in"]) -> Float[Array, "... features"]:
        x = TokenNorm(dtype=self.dtype, name="norm")(x)
        kernel_init = fan_in_normalized(self.scale)
        dense = nn.Dense(self.features, use_bias=False, dtype=self.dtype, kernel_init=kernel_init, name="dense")
        return nn.relu(dense(x))


class NormConv(nn.Module):
    """`[n, h, w, in] -> [n, h, w, features]`: norm (unless `norm=False`), 3x3 convolution, ReLU.

    With `convolve=conv_max_pool`, `[n, h, w, in] -> [n, h/2, w/2, features]`: bias and ReLU, which keep the order of
    numbers, come after the maximum, and are computed for a quarter of the pixels.
    """

    features: int
    norm: bool = True
    convolve: Callable[[Array, Array], Array] = conv3x3  # images, kernel -> images
    scale: float = 1.0
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w in"]) -> Float[Array, "n h2 w2 features"]:
        if self.norm:
            x = ImageNorm(dtype=self.dtype, name="norm")(x)
        kernel_init = fan_in_normalized(self.scale)
        conv = nn.Conv(
            self.features,
            (3, 3),
            use_bias=not self.norm,
            dtype=self.dtype,
            kernel_init=kernel_init,
            name="conv",
            conv_general_dilated=lambda x, kernel, *_, **__: self.convolve(x, kernel),
        )
        images = conv(x)
        if target_platform() == "tpu" and self.convolve is conv3x3 and self.features in _APART_FROM_NORMS:
            images = jax.lax.optimization_barrier(images)
        return nn.relu(name_output(images))
