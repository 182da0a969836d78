"""The causal transformer with memory (reference `lib/util.py`: `ResidualRecurrentBlocks`)."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vpt_jax.models.attention import RelativeAttention
from vpt_jax.models.kv_cache import AnyMemory, next_memory, ring_row
from vpt_jax.models.layers import NormDense, TokenNorm, fan_in_normalized

MLP_RATIO = 4


class TransformerBlock(nn.Module):
    """Norm; attention added to the *normalised* input; then an MLP added to that.

    The raw input is not added anywhere, as in the reference.
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
    """`layers` blocks, one memory, of which the mask is the caller's business."""

    layers: int
    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t f"], mask: Bool[Array, "b t s"], memory: AnyMemory
    ) -> tuple[Float[Array, "b t f"], AnyMemory]:
        """`mask` says what every frame may look at. Returns the output, and the memory with new keys and values."""
        scale = (2 * self.layers) ** -0.5  # two residual branches a layer
        row = ring_row(memory)
        remembered = []
        for i, layer_memory in enumerate(zip(memory.keys, memory.values, strict=True)):
            block = TransformerBlock(self.heads, scale, dtype=self.dtype, name=f"block_{i}")
            x, layer_memory = block(x, mask, layer_memory, row)
            remembered.append(layer_memory)
        keys, values = zip(*remembered, strict=True)
        return x, next_memory(memory, keys, values)
