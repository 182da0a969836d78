"""Masked attention with learned relative position bias, over a KV cache and a new chunk of frames.

Reference: `lib/xf.py`, `lib/masked_attention.py`.

Shapes: `b` batch, `t` new frames, `m` cached frames, `s` keys (`m + t`; `m` in a ring buffer), `h` heads, `d` features
of a head, `f = h * d` features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vpt_jax.models.kv_cache import append, relative_distance, ring_relative_distance
from vpt_jax.models.layers import fan_in_normalized

NUM_BASIS = 10  # learned curves over the distance in frames, mixed per head and frame
MASKED = -1e9
# Initial scales of the reference (`Q_SCALE`, `K_SCALE`, `R_SCALE`): norms of the weights into every output.
QUERY_SCALE, KEY_SCALE, RELATIVE_SCALE = 0.1, 0.2, 0.1
BASIS_SCALE = 0.2  # `B_SCALE`: standard deviation of every entry of the basis


def gather_relative_bias(
    basis: Float[Array | np.ndarray, "n m"], distance: Int[np.ndarray | Array, "t s"]
) -> Float[Array, "n t s"]:
    """Relative position bias: each of the `n` distance curves gathered at the `distance` (in frames) of query and key.

    0 where the distance is negative or beyond the curves' length `m`.
    """
    m = basis.shape[1]
    with_zero = jnp.pad(basis, ((0, 0), (0, 1)))
    return with_zero[:, jnp.where((0 <= distance) & (distance < m), distance, m)]


class RelativeAttention(nn.Module):
    """Multi-head attention with a learned relative position bias and a KV cache, not split into heads.

    Logits are `q.k / d` (not `q.k / sqrt(d)`) plus the relative position bias, in float32. The projections of queries
    and output have a bias, those of keys and values have none. `scale` is the initial gain of the branch: values and
    output have its square root each.
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
        """Attend from `x` to the cached frames and to `x` itself.

        Args:
            x: the new frames.
            mask: True where a frame may attend to a key.
            memory: cached keys and values of this layer.
            row: the row to write, if they are those of a `RingKVCache`.

        Returns:
            The output, without the residual, and the updated keys and values.
        """
        (b, t, f), m = x.shape, memory[0].shape[1]
        value_scale = out_scale = self.scale**0.5
        query = self._dense(f, QUERY_SCALE, "query")(x)
        key, keys = append(memory[0], self._dense(f, KEY_SCALE, "key", bias=False)(x), row)
        value, values = append(memory[1], self._dense(f, value_scale, "value", bias=False)(x), row)
        relative_bias = self._relative_bias(x, m, row)

        q, k, v = (a.reshape(b, -1, self.heads, f // self.heads) for a in (query, key, value))
        logits = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) / q.shape[-1]
        logits = jnp.where(mask[:, None], logits + relative_bias, MASKED)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        attended = jnp.einsum("bhts,bshd->bthd", weights, v).reshape(b, t, f)
        return self._dense(f, out_scale, "out")(attended), (keys, values)

    def _relative_bias(
        self, x: Float[Array, "b t f"], m: int, row: Int[Array, ""] | None
    ) -> Float[Array, "b h t s"] | Float[Array, ""]:
        mix = self._dense(self.heads * NUM_BASIS, RELATIVE_SCALE, "relative")(x)
        if not m:  # there are no curves; the layer keeps its weights, since the released models have them
            return jnp.zeros((), jnp.float32)
        basis = self.param("basis", nn.initializers.normal(BASIS_SCALE), (NUM_BASIS, m))
        mix = mix.reshape(*x.shape[:2], self.heads, NUM_BASIS)
        distance = relative_distance(x.shape[1], m) if row is None else ring_relative_distance(row, m)
        gathered = gather_relative_bias(basis, distance).astype(self.dtype)
        return jnp.einsum("bthn,nts->bhts", mix, gathered, preferred_element_type=jnp.float32)

    def _dense(self, features: int, scale: float, name: str, bias: bool = True) -> nn.Dense:
        init = fan_in_normalized(scale)
        return nn.Dense(features, use_bias=bias, dtype=self.dtype, kernel_init=init, name=name)
