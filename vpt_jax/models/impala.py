"""Residual image encoder (IMPALA ResNet, reference `lib/impala_cnn.py`): one embedding per frame."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from vpt_jax.models.layers import ImageNorm, NormConv, NormDense
from vpt_jax.models.platform import target_platform
from vpt_jax.models.pooling import conv_max_pool, max_pool
from vpt_jax.models.remat import NONE, rematerialized_block, rematerialized_stack
from vpt_jax.parallel import FRAMES, constrain

BLOCKS_PER_STACK = 2
EMBEDDING = 256  # width of the bottleneck between the convolutions and the transformer
DENSE_SCALE = 1.4  # the reference's initial scale of the layer after the convolutions


class ResidualBlock(nn.Module):
    """`x + conv(conv(x))`; `scale` is the residual branch's initial gain, its square root that of each convolution."""

    scale: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        channels, scale = x.shape[-1], self.scale**0.5
        y = NormConv(channels, scale=scale, dtype=self.dtype, name="conv_0")(x)
        return x + NormConv(channels, scale=scale, dtype=self.dtype, name="conv_1")(y)


class DownStack(nn.Module):
    """Downsampling stack: convolution, max-pool, norm, residual blocks."""

    features: int
    scale: float  # initial gain; that of each residual block is `scale / sqrt(BLOCKS_PER_STACK)`
    first_norm: bool = True  # False on frames
    remat: str = NONE
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 features"]:
        options = dict(norm=self.first_norm, dtype=self.dtype, name="first_conv")
        if self.joins_pool():
            x = NormConv(self.features, convolve=conv_max_pool, **options)(x)
        else:
            x = max_pool(NormConv(self.features, **options)(x))
        x = ImageNorm(dtype=self.dtype, name="norm")(x)
        block_class = rematerialized_block(ResidualBlock, self.remat)
        for i in range(BLOCKS_PER_STACK):
            x = block_class(self.scale / BLOCKS_PER_STACK**0.5, dtype=self.dtype, name=f"block_{i}")(x)
        return x

    @nn.nowrap
    def joins_pool(self) -> bool:
        """Return True where convolution and max-pool are faster as one."""
        # On GPUs only for frames, whose gradient nobody needs: other stacks would add four gradients of their input.
        return target_platform() == "tpu" or (target_platform() == "gpu" and not self.first_norm)


def scale_frames(frames: UInt8[Array | np.ndarray, "... h w 3"], dtype: DTypeLike) -> Float[Array, "... h w 3"]:
    """Scale pixels from 0..255 to 0..1; there is no other normalization."""
    return jnp.asarray(frames).astype(dtype) / 255


class ImpalaEncoder(nn.Module):
    """Image encoder `[n, h, w, c] -> [n, features]`; height and width must be divisible by `2 ** len(widths)`.

    The feature map is flattened in (height, width, channel) order; `vpt_jax/openai/weights.py` permutes the reference's
    channel-first rows accordingly. `remat` (rematerialization, gradient checkpointing) is a choice of
    `models/remat.py`: what of a stack the backward pass computes again.
    """

    widths: tuple[int, ...]
    features: int
    first_norm: bool = False  # norm before the first convolution; the policy has none there
    remat: str = NONE
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n features"]:
        self._check_size(*x.shape[-3:-1])
        x = constrain(x, FRAMES)
        stack_class = rematerialized_stack(DownStack, self.remat)
        for i, width in enumerate(self.widths):
            scale = len(self.widths) ** 0.5  # the reference's `math.sqrt(len(chans))`; in IMPALA and PPG, its inverse
            options = dict(first_norm=self.first_norm or i > 0, remat=self.remat, dtype=self.dtype)
            x = stack_class(width, scale, **options, name=f"stack_{i}")(x)
        x = constrain(x.reshape(len(x), -1), FRAMES)
        x = NormDense(EMBEDDING, scale=DENSE_SCALE, dtype=self.dtype, name="dense")(x)
        return NormDense(self.features, dtype=self.dtype, name="project")(x)

    def _check_size(self, height: int, width: int) -> None:
        divisor = 2 ** len(self.widths)
        if height % divisor or width % divisor:
            raise ValueError(
                f"frames are {height}x{width}; this encoder needs a height and width divisible by {divisor}"
            )
