"""Masked relative attention over a remembered past and a new chunk (reference `lib/xf.py`, `lib/masked_attention.py`).

Shapes: `b` batch, `t` new frames, `m` remembered frames, `s` keys (`m + t`, in a ring `m`), `h` heads, `d` features of
a head, `f = h * d` features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from vpt_jax.models.kv_cache import frames_back, remember, ring_frames_back
from vpt_jax.models.layers import fan_in_normalized

NUM_BASIS = 10  # learned curves over the distance, mixed per head and frame
MASKED = -1e9
# Initial scales of the reference (`Q_SCALE`, `K_SCALE`, `R_SCALE`): norms of the weights into every output.
QUERY_SCALE, KEY_SCALE, RELATIVE_SCALE = 0.1, 0.2, 0.1
BASIS_SCALE = 0.2  # `B_SCALE`: standard deviation of every entry of the basis


def spread_basis(
    basis: Float[Array | np.ndarray, "n m"], back: Int[np.ndarray | Array, "t s"]
) -> Float[Array, "n t s"]:
    """The distance curves laid out over query and key, which lie `back` frames apart; 0 beyond the curves."""
    m = basis.shape[1]
    with_zero = jnp.pad(basis, ((0, 0), (0, 1)))
    return with_zero[:, jnp.where((0 <= back) & (back < m), back, m)]


class RelativeAttention(nn.Module):
    """Multi-head attention with a learned distance term and a memory of unsplit keys and values.

    Logits are `q.k / d` (not its root) plus the distance term, in float32. Queries and the output have a bias, keys
    and values have not. `scale` is the initial gain of the branch: values and output have its root each.
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
        """`memory`: keys and values, with `row` of a `Ring`. Returns the output, without residual, and the next."""
        (b, t, f), m = x.shape, memory[0].shape[1]
        value_scale = out_scale = self.scale**0.5
        query = self._dense(f, QUERY_SCALE, "query")(x)
        key, keys = remember(memory[0], self._dense(f, KEY_SCALE, "key", bias=False)(x), row)
        value, values = remember(memory[1], self._dense(f, value_scale, "value", bias=False)(x), row)
        distance_term = self._distance_term(x, m, row)

        q, k, v = (a.reshape(b, -1, self.heads, f // self.heads) for a in (query, key, value))
        logits = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) / q.shape[-1]
        logits = jnp.where(mask[:, None], logits + distance_term, MASKED)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        attended = jnp.einsum("bhts,bshd->bthd", weights, v).reshape(b, t, f)
        return self._dense(f, out_scale, "out")(attended), (keys, values)

    def _distance_term(
        self, x: Float[Array, "b t f"], m: int, row: Int[Array, ""] | None
    ) -> Float[Array, "b h t s"] | Float[Array, ""]:
        mix = self._dense(self.heads * NUM_BASIS, RELATIVE_SCALE, "relative")(x)
        if not m:  # no distance has a curve; the layer's weights are kept, since the released models have them
            return jnp.zeros((), jnp.float32)
        basis = self.param("basis", nn.initializers.normal(BASIS_SCALE), (NUM_BASIS, m))
        mix = mix.reshape(*x.shape[:2], self.heads, NUM_BASIS)
        back = frames_back(x.shape[1], m) if row is None else ring_frames_back(row, m)
        spread = spread_basis(basis, back).astype(self.dtype)
        return jnp.einsum("bthn,nts->bhts", mix, spread, preferred_element_type=jnp.float32)

    def _dense(self, features: int, scale: float, name: str, bias: bool = True) -> nn.Dense:
        init = fan_in_normalized(scale)
        return nn.Dense(features, use_bias=bias, dtype=self.dtype, kernel_init=init, name=name)
