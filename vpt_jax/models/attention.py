"""Masked relative attention over a remembered past and a new chunk (reference `lib/xf.py`, `lib/masked_attention.py`).

Shapes: `b` batch, `t` new frames, `m` remembered frames, `s = m + t` keys, `h` heads, `d` features of a head,
`f = h * d` features. Key `j` lies `m + i - j` frames back of query `i`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from vpt_jax.models.layers import fan_in_normalized

NUM_BASIS = 10  # learned curves over the distance, mixed per head and frame
MASKED = -1e9
QUERY_SCALE, KEY_SCALE, RELATIVE_SCALE, BASIS_SCALE = 0.1, 0.2, 0.1, 0.2  # initial gains of the reference


def causal_band(queries: int, keys: int, length: int) -> Bool[np.ndarray, "queries keys"]:
    """True where the key is the query's own frame or one of the `length - 1` before it; the last key is the newest."""
    back = (keys - queries) + np.arange(queries)[:, None] - np.arange(keys)
    return (0 <= back) & (back < length)


def attention_mask(
    first: Bool[Array, "b t"], memory_mask: Bool[Array, "b m"]
) -> tuple[Bool[Array, "b t m+t"], Bool[Array, "b m"]]:
    """Which keys every frame may look at, and which rows of the next memory count.

    A frame sees itself and the `m - 1` frames before it, back to the newest `first` at or before it. The reference
    looks at `first` in position 0 only and silently ignores it elsewhere; here it works at any position.
    """
    t, m = first.shape[1], memory_mask.shape[1]
    episode = jnp.cumsum(first, axis=1)  # 0 for frames that continue the memory's episode
    key_episode = jnp.pad(episode, ((0, 0), (m, 0)))
    known = jnp.pad(memory_mask, ((0, 0), (0, t)), constant_values=True)
    same_episode = episode[:, :, None] == key_episode[:, None, :]
    visible = jnp.asarray(causal_band(t, m + t, m)) & same_episode & known[:, None, :]
    return visible, (known & (key_episode == episode[:, -1:]))[:, t:]


def spread_basis(basis: Float[Array, "n m"], queries: int) -> Float[Array, "n queries m+queries"]:
    """The distance curves laid out over query and key; 0 where the key is not in the band."""
    m = basis.shape[1]
    back = m + np.arange(queries)[:, None] - np.arange(m + queries)
    with_zero = jnp.pad(basis, ((0, 0), (0, 1)))
    return with_zero[:, np.where((0 <= back) & (back < m), back, m)]


class RelativeAttention(nn.Module):
    """Multi-head attention with a learned distance term and a memory of unsplit keys and values.

    Logits are `q.k / d` (not its root) plus the distance term, in float32. Queries and the output have a bias, keys
    and values have not. `scale` is the initial gain of the output.
    """

    heads: int
    scale: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t f"],
        mask: Bool[Array, "b t m+t"],
        memory: tuple[Float[Array, "b m f"], Float[Array, "b m f"]],
    ) -> tuple[Float[Array, "b t f"], tuple[Float[Array, "b m f"], Float[Array, "b m f"]]]:
        """Returns the output (without residual) and the newest `m` rows of keys and values."""
        (b, t, f), m = x.shape, memory[0].shape[1]
        query = self._dense(f, QUERY_SCALE, "query")(x)
        new = self._dense(f, KEY_SCALE, "key", bias=False)(x), self._dense(f, 1.0, "value", bias=False)(x)
        key, value = (jnp.concatenate([old, fresh], axis=1) for old, fresh in zip(memory, new, strict=True))
        distance_term = self._distance_term(x, m)

        q, k, v = (a.reshape(b, -1, self.heads, f // self.heads) for a in (query, key, value))
        logits = jnp.einsum("bthd,bshd->bhts", q, k, preferred_element_type=jnp.float32) / q.shape[-1]
        logits = jnp.where(mask[:, None], logits + distance_term, MASKED)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        attended = jnp.einsum("bhts,bshd->bthd", weights, v).reshape(b, t, f)
        return self._dense(f, self.scale, "out")(attended), (key[:, t:], value[:, t:])

    def _distance_term(self, x: Float[Array, "b t f"], m: int) -> Float[Array, "b h t m+t"] | Float[Array, ""]:
        mix = self._dense(self.heads * NUM_BASIS, RELATIVE_SCALE, "relative")(x)
        if not m:  # no distance has a curve; the layer's weights are kept, since the released models have them
            return jnp.zeros((), jnp.float32)
        basis = self.param("basis", self._basis_init, (NUM_BASIS, m))
        mix = mix.reshape(*x.shape[:2], self.heads, NUM_BASIS)
        spread = spread_basis(basis, x.shape[1]).astype(self.dtype)
        return jnp.einsum("bthn,nts->bhts", mix, spread, preferred_element_type=jnp.float32)

    @staticmethod
    def _basis_init(key: jax.Array, shape: tuple[int, int]) -> Float[Array, "n m"]:
        return fan_in_normalized(BASIS_SCALE)(key, shape[::-1]).T

    def _dense(self, features: int, scale: float, name: str, bias: bool = True) -> nn.Dense:
        init = fan_in_normalized(scale)
        return nn.Dense(features, use_bias=bias, dtype=self.dtype, kernel_init=init, name=name)
