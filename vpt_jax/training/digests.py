"""CRC-32 checksums of a train state, which detect bits of a checkpoint that have changed on disk.

Orbax stores no checksum of values: a flipped bit loads as another parameter. CRC-32 of every leaf detects any single
flipped bit and any damage within 32 bits for certain, and all but one in 2^32 of everything else. It is no protection
against deliberate changes of a checkpoint.

A leaf that is sharded over devices has one checksum per shard, computed by the process that holds the shard: only the
checksums are gathered. On loading, shards can be verified by a process that has the whole leaf, or the same shards; a
process with other shards of a leaf (a checkpoint of several hosts, resumed on another mesh) cannot verify it.

`params_digest` (SHA-256) identifies parameters, so that cached results are never attributed to other parameters.
"""

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from vpt_jax.parallel import path_name

Digests = Mapping[str, Mapping[str, int]]  # leaf's path -> shard's index (`0:4,2:8`; empty: of a scalar) -> CRC-32

_COPY_BYTES = 1 << 20
_THREADS = 8  # CRC-32 runs at 1 to 3 GB/s in each


class _Shard(NamedTuple):
    path: str  # of the leaf
    key: str  # index of the shard in the leaf
    values: Any  # an array, on a device or in memory; None: another process has it


def digest(state: Any) -> dict[str, dict[str, int]]:
    """CRC-32 of the shards of all leaves; a collective operation: on several hosts all must call it."""
    shards = [shard for path, leaf in jax.tree.leaves_with_path(state) for shard in _shards(path_name(path), leaf)]
    sums = np.array(_checksums([shard.values for shard in shards]), np.uint32)
    if jax.process_count() > 1:  # one process computes each checksum, and the others add 0
        sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    digests: dict[str, dict[str, int]] = {}
    for shard, checksum in zip(shards, sums.tolist(), strict=True):
        digests.setdefault(shard.path, {})[shard.key] = checksum
    return digests


def params_digest(params: Any, *settings: Any) -> str:
    """Content hash of parameters (a tree of arrays), wherever their files lie: 16 hexadecimal digits of SHA-256.

    Args:
        params: all arrays that determine results; their paths, types and shapes are hashed too.
        settings: everything else that changes results of the same parameters, hashed by its `repr`.
    """
    sha256 = hashlib.sha256(repr(settings).encode())
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(params)):
        array = np.asarray(leaf)
        sha256.update(f"{path_name(path)} {array.dtype} {array.shape}".encode())
        sha256.update(array.tobytes())
    return sha256.hexdigest()[:16]


def changed_leaves(state: Any, digests: Digests) -> list[str]:
    """Paths of the leaves whose checksum differs from `digests`, as far as this process has their shards."""
    shards, expected = [], []
    for path, leaf in jax.tree.leaves_with_path(state):
        for index, checksum in digests.get(name := path_name(path), {}).items():
            if (values := _shard_values(leaf, index)) is not None:
                shards.append(_Shard(name, index, values))
                expected.append(checksum)
    sums = _checksums([shard.values for shard in shards])
    return list(
        dict.fromkeys(
            shard.path for shard, checksum, saved in zip(shards, sums, expected, strict=True) if checksum != saved
        )
    )


def leaves_without_digest(state: Any, digests: Digests) -> list[str]:
    """Paths of the leaves that have no checksum in `digests`."""
    return [name for path, _ in jax.tree.leaves_with_path(state) if not digests.get(name := path_name(path))]


def _shards(path: str, leaf: Any) -> Iterator[_Shard]:
    """Distinct shards of a leaf, in the same order on all processes."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_replicated or leaf.is_fully_addressable:
        yield _Shard(path, _index_key((), np.shape(leaf)), leaf if jax.process_index() == 0 else None)
        return
    local = {_index_key(shard.index, leaf.shape): shard for shard in leaf.addressable_shards if shard.replica_id == 0}
    keys = {_index_key(index, leaf.shape) for index in leaf.sharding.devices_indices_map(leaf.shape).values()}
    for key in sorted(keys):
        yield _Shard(path, key, local[key].data if key in local else None)


def _index_key(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    """Text of a shard's index, such as `0:4,2:8`; dimensions that `index` leaves out are whole."""
    slices = (*index, *(slice(None) for _ in shape[len(index) :]))
    return ",".join("{}:{}".format(*one.indices(size)) for one, size in zip(slices, shape, strict=True))


def _shard_values(leaf: Any, key: str) -> Any:
    """Values of a leaf at an index key; None if this process does not have them."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        shards = (shard.data for shard in leaf.addressable_shards if _index_key(shard.index, leaf.shape) == key)
        return next(shards, None)
    index = tuple(slice(*map(int, bounds.split(":"))) for bounds in key.split(",") if bounds)
    return np.asarray(leaf)[index]


def _checksums(arrays: list[Any]) -> list[int]:
    for array in arrays:
        if isinstance(array, jax.Array):
            array.copy_to_host_async()  # all at once
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_checksum, arrays))


def _checksum(array: Any) -> int:
    """CRC-32 of an array's values in C order. Of a non-contiguous array, some rows are copied at a time."""
    if array is None:
        return 0
    values, checksum = np.asarray(array), 0
    rows = values.reshape(1, -1) if values.flags.c_contiguous else values
    count = max(1, _COPY_BYTES * len(rows) // max(rows.nbytes, 1))
    for start in range(0, len(rows), count):
        block = np.ascontiguousarray(rows[start : start + count]).reshape(-1).view(np.uint8)
        checksum = zlib.crc32(block.data, checksum)
    return checksum
