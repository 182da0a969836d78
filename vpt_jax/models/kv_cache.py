"""What the transformer remembers of a stream, and which of it a frame may look at.

Two forms hold the same rows. `Memory` has them in order and takes chunks of any length, as in training. `Ring` takes
one frame at a time, as in play: the newest row overwrites the oldest, so that nothing is moved.

Shapes: `b` batch, `t` new frames, `m` remembered frames, `s` keys, `f` features.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

Rows = tuple[Float[Array, "b m f"], ...]  # a tensor per layer


class Memory(NamedTuple):
    """Per layer the newest `m` keys and values, the oldest first, and which of them count."""

    keys: Rows
    values: Rows
    mask: Bool[Array, "b m"]


class Ring(NamedTuple):
    """The newest `m` keys and values per layer, for acting, one frame at a time: frame number `n` is in row `n % m`."""

    keys: Rows
    values: Rows
    mask: Bool[Array, "b m"]
    row: Int[Array, ""]  # of the next frame


AnyMemory = TypeVar("AnyMemory", Memory, Ring)


def empty_memory(batch: int, length: int, features: int, layers: int, dtype: DTypeLike = jnp.float32) -> Memory:
    """A memory of nothing: zeros that do not count. Every array is its own, so that all may be donated."""
    keys, values = (tuple(jnp.zeros((batch, length, features), dtype) for _ in range(layers)) for _ in range(2))
    return Memory(keys, values, jnp.zeros((batch, length), bool))


def empty_ring(batch: int, length: int, features: int, layers: int, dtype: DTypeLike = jnp.float32) -> Ring:
    """A ring of nothing, as `empty_memory`."""
    return Ring(*empty_memory(batch, length, features, layers, dtype), jnp.zeros((), jnp.int32))


def in_order(ring: Ring) -> Memory:
    """The same memory, to go on with chunks."""
    keys, values, mask = jax.tree.map(lambda rows: jnp.roll(rows, -ring.row, axis=1), ring[:3])
    return Memory(keys, values, mask)


def causal_band(queries: int, keys: int, length: int) -> Bool[np.ndarray, "queries keys"]:
    """True where the key is the query's own frame or one of the `length - 1` before it; the last key is the newest."""
    back = frames_back(queries, keys - queries)
    return (0 <= back) & (back < length)


def look(first: Bool[Array | np.ndarray, "b t"], memory: AnyMemory) -> tuple[Bool[Array, "b t s"], AnyMemory]:
    """Which keys every new frame may look at, and the memory with the mask that it will have after them.

    A frame sees itself and the `m - 1` frames before it, back to the newest `first` at or before it. The reference
    looks at `first` in position 0 only and silently ignores it elsewhere; here it works at any position.
    """
    if isinstance(memory, Ring):
        if first.shape[1] != 1:
            raise ValueError(f"a Ring takes one frame at a time, not {first.shape[1]}: chunks need a Memory")
        mask = (memory.mask & ~first).at[:, memory.row].set(True)
        return mask[:, None], memory._replace(mask=mask)
    t, m = first.shape[1], memory.mask.shape[1]
    episode = jnp.cumsum(first, axis=1)  # 0 for frames that continue the memory's episode
    key_episode = jnp.pad(episode, ((0, 0), (m, 0)))
    known = jnp.pad(memory.mask, ((0, 0), (0, t)), constant_values=True)
    same_episode = episode[:, :, None] == key_episode[:, None, :]
    visible = jnp.asarray(causal_band(t, m + t, m)) & same_episode & known[:, None, :]
    return visible, memory._replace(mask=(known & (key_episode == episode[:, -1:]))[:, t:])


def frames_back(queries: int, m: int) -> Int[np.ndarray, "t s"]:
    """How many frames every key lies before every query, if the last key is the newest query's own."""
    return m + np.arange(queries)[:, None] - np.arange(m + queries)


def ring_frames_back(row: Int[Array, ""], m: int) -> Int[Array, "1 m"]:
    """How many frames every key of a ring lies before the one in `row`."""
    return (row - jnp.arange(m))[None] % m


def ring_row(memory: Memory | Ring) -> Int[Array, ""] | None:
    """The row of a ring that takes the next frame; None if it is no ring."""
    return memory.row if isinstance(memory, Ring) else None


def remember(
    old: Float[Array, "b m f"], new: Float[Array, "b t f"], row: Int[Array, ""] | None
) -> tuple[Float[Array, "b s f"], Float[Array, "b m f"]]:
    """All keys or values that may be looked at, and what is to be remembered of them.

    Without `row` the new ones come after the old; with it the new one takes that row's place.
    """
    if row is None:
        both = jnp.concatenate([old, new], axis=1)
        return both, both[:, new.shape[1] :]
    ring = jax.lax.dynamic_update_slice_in_dim(old, new, row, axis=1)
    return ring, ring


def next_memory(memory: AnyMemory, keys: Rows, values: Rows) -> AnyMemory:
    """The memory with what `remember` returned for every layer."""
    if isinstance(memory, Ring):
        return memory._replace(keys=keys, values=values, row=(memory.row + 1) % memory.mask.shape[1])
    return memory._replace(keys=keys, values=values)
