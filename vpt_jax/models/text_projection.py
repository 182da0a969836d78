"""Conditioning of a policy on text: an embedding per frame, projected and added before the transformer.

After the paper's appendix I (recalled): an MLP with two hidden layers. The output layer starts at zero, so that
fine-tuning an unconditional policy starts exactly at it (as ControlNet, Zhang et al. 2023, does).
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from vpt_jax.models.layers import fan_in_normalized

HIDDEN_LAYERS = 2


class TextProjection(nn.Module):
    """`[b, t, e] -> [b, t, features]`, of vectors of length 1; 0 where they are 0, which stands for no text."""

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, text: Float[Array, "b t e"]) -> Float[Array, "b t f"]:
        given = (text != 0).any(-1, keepdims=True)
        x = text.astype(self.dtype) * text.shape[-1] ** 0.5  # numbers of mean square 1, as layers expect
        for i in range(HIDDEN_LAYERS):
            layer = nn.Dense(self.features, dtype=self.dtype, kernel_init=fan_in_normalized(), name=f"hidden_{i}")
            x = nn.relu(layer(x))
        out = nn.Dense(self.features, use_bias=False, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="out")
        return jnp.where(given, out(x), 0)
