"""Transformer with a KV cache, Transformer-XL style (reference `lib/util.py`: `ResidualRecurrentBlocks`)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vpt_jax.models.attention import RelativeAttention
from vpt_jax.models.kv_cache import AnyCache, ring_row, update_cache
from vpt_jax.models.layers import NormDense, TokenNorm, fan_in_normalized

MLP_RATIO = 4


class TransformerBlock(nn.Module):
    """Transformer block: norm, attention with a residual, MLP with a residual.

    The attention's residual is the *normalized* input: the raw input is not added anywhere, as in the reference.
    """

    heads: int
    scale: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t f"],
        mask: Bool[Array, "b t s"],
        memory: tuple[Float[Array, "b m f"], Float[Array, "b m f"]],
        row: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "b t f"], tuple[Float[Array, "b m f"], Float[Array, "b m f"]]]:
        """Compute the block's output and its updated keys and values; arguments as of `RelativeAttention`."""
        features = x.shape[-1]
        x = TokenNorm(dtype=self.dtype, name="norm")(x)
        attended, memory = RelativeAttention(self.heads, self.scale, dtype=self.dtype, name="attention")(
            x, mask, memory, row
        )
        x = x + attended
        hidden = NormDense(MLP_RATIO * features, dtype=self.dtype, name="mlp_in")(x)
        out_init = fan_in_normalized(self.scale)
        return x + nn.Dense(features, dtype=self.dtype, kernel_init=out_init, name="mlp_out")(hidden), memory


class Transformer(nn.Module):
    """Stack of `layers` transformer blocks with one KV cache; the caller supplies the attention mask."""

    layers: int
    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t f"], mask: Bool[Array, "b t s"], memory: AnyCache
    ) -> tuple[Float[Array, "b t f"], AnyCache]:
        """Compute the output, and the cache with the new keys and values.

        Args:
            x: the embedded frames of the chunk.
            mask: True where a frame may attend to a key.
            memory: the cache before the chunk; its own mask is neither read nor changed.
        """
        scale = (2 * self.layers) ** -0.5  # two residual branches per layer
        row = ring_row(memory)
        updated = []
        for i, layer_memory in enumerate(zip(memory.keys, memory.values, strict=True)):
            block = TransformerBlock(self.heads, scale, dtype=self.dtype, name=f"block_{i}")
            x, layer_memory = block(x, mask, layer_memory, row)
            updated.append(layer_memory)
        keys, values = zip(*updated, strict=True)
        return x, update_cache(memory, keys, values)
