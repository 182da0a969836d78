"""KV cache of the causal transformer (Transformer-XL memory): cached keys and values, and the attention mask over them.

Two layouts hold the same rows. `KVCache` keeps them in order of time and takes chunks of any length, as in training.
`RingKVCache` is a ring buffer that takes one frame at a time, as in acting: the newest row overwrites the oldest, so
that nothing is moved.

Shapes: `b` batch, `t` new frames, `m` cached frames, `s` keys, `f` features.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

LayerTensors = tuple[Float[Array, "b m f"], ...]  # a tensor per layer


class KVCache(NamedTuple):
    """Keys and values of the newest `m` frames per layer, the oldest first; `mask` is True for valid rows."""

    keys: LayerTensors
    values: LayerTensors
    mask: Bool[Array, "b m"]


class RingKVCache(NamedTuple):
    """Ring buffer of the newest `m` keys and values per layer, for acting: frame number `n` is in row `n % m`."""

    keys: LayerTensors
    values: LayerTensors
    mask: Bool[Array, "b m"]
    row: Int[Array, ""]  # of the next frame


AnyCache = TypeVar("AnyCache", KVCache, RingKVCache)


def empty_cache(batch: int, length: int, features: int, layers: int, dtype: DTypeLike = jnp.float32) -> KVCache:
    """Empty KV cache: zeros, all masked. No two leaves share a buffer, so that all of them may be donated."""
    keys, values = (tuple(jnp.zeros((batch, length, features), dtype) for _ in range(layers)) for _ in range(2))
    return KVCache(keys, values, jnp.zeros((batch, length), bool))


def empty_ring_cache(
    batch: int, length: int, features: int, layers: int, dtype: DTypeLike = jnp.float32
) -> RingKVCache:
    """Empty ring buffer; arguments as of `empty_cache`."""
    return RingKVCache(*empty_cache(batch, length, features, layers, dtype), jnp.zeros((), jnp.int32))


def to_kv_cache(ring: RingKVCache) -> KVCache:
    """Convert a ring buffer to a `KVCache` with the rows in order of time, to continue with chunks."""
    keys, values, mask = jax.tree.map(lambda rows: jnp.roll(rows, -ring.row, axis=1), ring[:3])
    return KVCache(keys, values, mask)


def causal_band(queries: int, keys: int, length: int) -> Bool[np.ndarray, "queries keys"]:
    """Banded causal mask: True where the key is the query's own frame or one of the `length - 1` frames before it.

    The last key is the newest query's own frame.
    """
    distance = relative_distance(queries, keys - queries)
    return (0 <= distance) & (distance < length)


def attention_mask(first: Bool[Array | np.ndarray, "b t"], cache: AnyCache) -> tuple[Bool[Array, "b t s"], AnyCache]:
    """Attention mask `[b, t, s]` over cache and chunk, and the cache with its validity mask after the chunk.

    A frame attends to itself and the `m - 1` frames before it, back to the newest `first` at or before it. The
    reference reads `first` in position 0 only and silently ignores it elsewhere; here it works at any position.

    Raises:
        ValueError: a chunk of several frames with a `RingKVCache`.
    """
    if isinstance(cache, RingKVCache):
        if first.shape[1] != 1:
            raise ValueError(
                f"a RingKVCache takes one frame at a time, not {first.shape[1]}: use a KVCache for chunks of frames"
            )
        mask = (cache.mask & ~first).at[:, cache.row].set(True)
        return mask[:, None], cache._replace(mask=mask)
    t, m = first.shape[1], cache.mask.shape[1]
    episode = jnp.cumsum(first, axis=1)  # 0 for frames that continue the cache's episode
    key_episode = jnp.pad(episode, ((0, 0), (m, 0)))
    valid = jnp.pad(cache.mask, ((0, 0), (0, t)), constant_values=True)
    same_episode = episode[:, :, None] == key_episode[:, None, :]
    mask = jnp.asarray(causal_band(t, m + t, m)) & same_episode & valid[:, None, :]
    return mask, cache._replace(mask=(valid & (key_episode == episode[:, -1:]))[:, t:])


def relative_distance(queries: int, m: int) -> Int[np.ndarray, "t s"]:
    """Distance in frames from every key to every query, over `m` cached keys and those of the queries themselves.

    The last key is the newest query's own; a key after the query has a negative distance.
    """
    return m + np.arange(queries)[:, None] - np.arange(m + queries)


def ring_relative_distance(row: Int[Array, ""], m: int) -> Int[Array, "1 m"]:
    """Distance in frames from every key of a ring buffer to the frame in `row`, which is the newest."""
    return (row - jnp.arange(m))[None] % m


def ring_row(cache: KVCache | RingKVCache) -> Int[Array, ""] | None:
    """Row of a ring buffer that the next frame is written to; None for a `KVCache`."""
    return cache.row if isinstance(cache, RingKVCache) else None


def append(
    cached: Float[Array, "b m f"], new: Float[Array, "b t f"], row: Int[Array, ""] | None
) -> tuple[Float[Array, "b s f"], Float[Array, "b m f"]]:
    """Add the keys or values of new frames to a layer's cached ones.

    Args:
        cached: the rows in the cache.
        new: the rows to add; one frame, if `row` is given.
        row: None: `new` is concatenated after `cached`; else it overwrites this row of the ring buffer.

    Returns:
        All rows that the new frames may attend to, and the `m` rows to cache.
    """
    if row is None:
        both = jnp.concatenate([cached, new], axis=1)
        return both, both[:, new.shape[1] :]
    ring = jax.lax.dynamic_update_slice_in_dim(cached, new, row, axis=1)
    return ring, ring


def update_cache(cache: AnyCache, keys: LayerTensors, values: LayerTensors) -> AnyCache:
    """Replace the keys and values of all layers by those from `append`; a ring buffer advances by one row."""
    if isinstance(cache, RingKVCache):
        return cache._replace(keys=keys, values=values, row=(cache.row + 1) % cache.mask.shape[1])
    return cache._replace(keys=keys, values=values)
