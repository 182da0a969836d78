"""Checksums of a train state, so that a checkpoint notices bits that have changed on disk.

Orbax stores no checksum of values: a flipped bit loads as another parameter. Every leaf is digested by CRC-32, which
finds any single flipped bit and any damage within 32 bits for certain, and all but one in 2^32 of everything else. It
is no protection against somebody who changes a checkpoint on purpose.

A leaf that is split over devices is digested part by part, by the process that holds the part: nothing is gathered but
the digests. So on loading, the parts can be verified by whoever has all of the leaf, or is given the same parts; a
process that is given other parts of a leaf (a checkpoint of several hosts, resumed on another mesh) cannot verify it.

`params_digest` tells parameters apart for results that are kept: those of others are not taken for theirs.
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

Digests = Mapping[str, Mapping[str, int]]  # of a leaf's parts (`0:4,2:8`; empty: of a scalar), by the leaf's path

_COPIED = 1 << 20  # bytes
_THREADS = 8  # CRC-32 runs at 1 to 3 GB/s in each


class _Part(NamedTuple):
    path: str
    place: str
    values: Any  # an array, on a device or in memory; None: another process has it


def digest(state: Any) -> dict[str, dict[str, int]]:
    """Digests of all leaves; a collective operation: on several hosts all must call it."""
    parts = [part for path, leaf in jax.tree.leaves_with_path(state) for part in _parts(path_name(path), leaf)]
    sums = np.array(_checksums([part.values for part in parts]), np.uint32)
    if jax.process_count() > 1:  # each part is digested by one process, and 0 for the others
        sums = multihost_utils.process_allgather(sums).sum(axis=0, dtype=np.uint32)
    digests: dict[str, dict[str, int]] = {}
    for part, checksum in zip(parts, sums.tolist(), strict=True):
        digests.setdefault(part.path, {})[part.place] = checksum
    return digests


def params_digest(params: Any, *settings: Any) -> str:
    """The identity of parameters (a tree of arrays), wherever their files lie: 16 hexadecimal digits of SHA-256.

    Args:
        params: all that results are made by; their paths, types and shapes count too.
        settings: what else makes other results of the same parameters, each by its `repr`.
    """
    whole = hashlib.sha256(repr(settings).encode())
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(params)):
        array = np.asarray(leaf)
        whole.update(f"{path_name(path)} {array.dtype} {array.shape}".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()[:16]


def damaged(state: Any, digests: Digests) -> list[str]:
    """Paths of the leaves that differ from what was digested, as far as this process has their parts."""
    found, expected = [], []
    for path, leaf in jax.tree.leaves_with_path(state):
        for place, checksum in digests.get(name := path_name(path), {}).items():
            if (values := _at(leaf, place)) is not None:
                found.append(_Part(name, place, values))
                expected.append(checksum)
    sums = _checksums([part.values for part in found])
    return list(
        dict.fromkeys(
            part.path for part, checksum, before in zip(found, sums, expected, strict=True) if checksum != before
        )
    )


def undigested(state: Any, digests: Digests) -> list[str]:
    """Paths of the leaves that nothing is known of."""
    return [name for path, _ in jax.tree.leaves_with_path(state) if not digests.get(name := path_name(path))]


def _parts(path: str, leaf: Any) -> Iterator[_Part]:
    """The parts of a leaf, in an order that all processes agree on."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_replicated or leaf.is_fully_addressable:
        yield _Part(path, _place((), np.shape(leaf)), leaf if jax.process_index() == 0 else None)
        return
    held = {_place(shard.index, leaf.shape): shard for shard in leaf.addressable_shards if shard.replica_id == 0}
    places = {_place(index, leaf.shape) for index in leaf.sharding.devices_indices_map(leaf.shape).values()}
    for place in sorted(places):
        yield _Part(path, place, held[place].data if place in held else None)


def _place(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    whole = (*index, *(slice(None) for _ in shape[len(index) :]))
    return ",".join("{}:{}".format(*part.indices(size)) for part, size in zip(whole, shape, strict=True))


def _at(leaf: Any, place: str) -> Any:
    """A part of a leaf; None if this process does not have it."""
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not leaf.is_fully_replicated:
        shards = (shard.data for shard in leaf.addressable_shards if _place(shard.index, leaf.shape) == place)
        return next(shards, None)
    index = tuple(slice(*map(int, part.split(":"))) for part in place.split(",") if part)
    return np.asarray(leaf)[index]


def _checksums(arrays: list[Any]) -> list[int]:
    for array in arrays:
        if isinstance(array, jax.Array):
            array.copy_to_host_async()  # all at once
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_checksum, arrays))


def _checksum(array: Any) -> int:
    """Of the numbers in order. Of a matrix that lies transposed in memory, some rows are copied at a time."""
    if array is None:
        return 0
    values, checksum = np.asarray(array), 0
    rows = values.reshape(1, -1) if values.flags.c_contiguous else values
    count = max(1, _COPIED * len(rows) // max(rows.nbytes, 1))
    for start in range(0, len(rows), count):
        part = np.ascontiguousarray(rows[start : start + count]).reshape(-1).view(np.uint8)
        checksum = zlib.crc32(part.data, checksum)
    return checksum
