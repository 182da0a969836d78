"""One mesh for every machine: which device holds which part of the batch, the memory and the parameters.

Axes: `data` splits the batch; `fsdp` splits the batch and the parameters; `tensor` splits features and heads.
Where a tensor lies is said by rules: pairs of a regular expression on its path and a PartitionSpec; the first match
counts.
"""

import ipaddress
import re
from collections.abc import Sequence
from math import prod
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.experimental.mesh_utils import create_device_mesh, create_hybrid_device_mesh
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from vpt_jax.system import stopping

AXES = ("data", "fsdp", "tensor")
# Rows of the batch and of the memory. With `data` first, XLA (of JAX 0.10) got the gradients of a step wrong on a mesh
# of 2x2x2, which tests/training/test_meshes.py would show.
BATCH = PartitionSpec(("fsdp", "data"))
# Frames of all rows, one after another, as the image stacks look at them: each by itself, so every device takes some.
FRAMES = PartitionSpec(("fsdp", "data", "tensor"))

Rules = Sequence[tuple[str, PartitionSpec]]

# Matrices into a wider or head-split space are split by output over `tensor`, the ones out of it by input, so that one
# reduction per residual branch is enough; the other side is split over `fsdp`. What no rule names is held by everyone.
RULES: dict[str, Rules] = {
    "default": (
        (r"^memory/", BATCH),
        (r"attention/(query|key|value|relative)/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"attention/out/kernel$", PartitionSpec("tensor", "fsdp")),
        (r"mlp_in/dense/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"mlp_out/kernel$", PartitionSpec("tensor", "fsdp")),
        (r"encoder/.*conv/kernel$", PartitionSpec(None, None, "fsdp", "tensor")),
        (r"encoder/(dense|project)/dense/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"last/dense/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"actions/.*/kernel$", PartitionSpec("fsdp", "tensor")),
    ),
    "replicate": ((r"^memory/", BATCH),),
}


def start_processes(coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the other processes of a job, if `coordinator` (`host:port` of process 0) is given.

    With "auto" JAX finds them, and how many they are: on TPU pods, and under Slurm and Kubernetes. Process 0 serves the
    others on all network interfaces, without authentication, unless the coordinator is this machine's loopback address:
    then on that alone. SIGTERM, and SIGHUP, then tell all processes to save and end (`loop.StopSignal`).
    """
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        bound = coordinator if _is_loopback(coordinator) else None
        jax.distributed.initialize(coordinator, num_processes, process_id, coordinator_bind_address=bound)
    if coordinator:
        stopping.leave_sigterm_to_others()  # JAX has installed a handler of its own


def _is_loopback(coordinator: str) -> bool:
    host = coordinator.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name
        return False


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over devices (default: all of all hosts); one size may be -1, which takes what the others leave.

    Of several TPU slices, each holds a part of `data`, and all of `fsdp` and `tensor`.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    if -1 in sizes:
        rest = -int(np.prod(sizes))
        sizes[sizes.index(-1)] = len(devices) // rest if rest > 0 else 0
    if min(sizes) < 1 or np.prod(sizes) != len(devices):
        asked = ", ".join(f"{axis}={size}" for axis, size in zip(AXES, (data, fsdp, tensor), strict=True))
        raise ValueError(
            f"a mesh of {asked} does not fit {len(devices)} devices: the product of the sizes must be {len(devices)}"
        )
    slices = _count_slices(devices)
    if sizes[0] % slices:
        raise ValueError(
            f"the devices are {slices} slices, and only `data` is split between slices, whose network is slow: with "
            f"fsdp={sizes[1]} and tensor={sizes[2]}, data={sizes[0]} must be a multiple of {slices}"
        )
    # GSPMD decides where activations lie; with JAX's default, Explicit, every operation would have to say so.
    # Chips may be wired as 16x16 where 8x16x2 is asked for.
    if slices > 1:
        in_slice, between = (sizes[0] // slices, *sizes[1:]), (slices, 1, 1)
        placed = create_hybrid_device_mesh(in_slice, between, devices, allow_split_physical_axes=True)
    else:
        placed = create_device_mesh(tuple(sizes), devices, allow_split_physical_axes=True)
    return Mesh(placed, AXES, axis_types=(AxisType.Auto,) * 3)


def _count_slices(devices: Sequence[jax.Device]) -> int:
    """The number of TPU slices. JAX calls every host of GPUs a slice as well: those are not counted."""
    return len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1


def tree_shardings(shapes: Any, mesh: Mesh, rules: Rules) -> Any:
    """The sharding of every leaf of a tree of shapes; axes that do not divide a dimension are left out, last first."""
    return jax.tree.map_with_path(
        lambda path, leaf: NamedSharding(mesh, _fit(find_spec(path_name(path), rules), leaf.shape, mesh)), shapes
    )


def find_spec(path: str, rules: Rules) -> PartitionSpec:
    """What the first matching rule says; nothing is split where none matches."""
    return next((spec for pattern, spec in rules if re.search(pattern, path)), PartitionSpec())


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    return PartitionSpec(*(_dividing(axes, size, mesh) for axes, size in zip(spec, shape, strict=False)))


def _dividing(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh | AbstractMesh) -> tuple[str, ...] | str | None:
    if axes is None or isinstance(axes, str):
        return axes if axes and size % mesh.shape[axes] == 0 else None
    while size % prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes


def path_name(path: Sequence[Any]) -> str:
    """A leaf's place in its tree, such as `params/encoder/dense/norm/scale`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def sharding_table(shapes: Any, shardings: Any) -> str:
    """Every decision in a line: path, shape, how it is split, size on one device."""
    rows = []
    for (path, leaf), sharding in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True):
        size = int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        rows.append(f"{path_name(path):<72} {leaf.shape!s:<22} {sharding.spec!s:<40} {size / 2**20:10.3f} MiB")
    return "\n".join(rows)


def constrain(x: Array, spec: PartitionSpec) -> Array:
    """Lays `x` over the mesh of `jax.set_mesh` as `spec` says, if it is one of `make_mesh`.

    Axes that do not divide a dimension are left out, the last first.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.axis_names != AXES else jax.lax.with_sharding_constraint(x, _fit(spec, x.shape, mesh))


def is_split() -> bool:
    """Whether the mesh of `jax.set_mesh` has several devices."""
    return jax.sharding.get_abstract_mesh().size > 1


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How the batch and the memory lie: by rows."""
    return NamedSharding(mesh, BATCH)


def local_rows(mesh: Mesh, batch: int) -> list[int]:
    """The rows of the global batch that this host's devices need, in order."""
    try:
        slices = batch_sharding(mesh).addressable_devices_indices_map((batch,)).values()
    except ValueError as error:
        rows = mesh.shape["data"] * mesh.shape["fsdp"]
        raise ValueError(f"a batch of {batch} cannot be split over data x fsdp = {rows} devices evenly") from error
    return sorted({row for index in slices if index for row in range(batch)[index[0]]})


def local_batch(placed: Any) -> Any:
    """Undoes `global_batch`: gets this host's rows back into its memory."""
    shards = jax.tree.map(_own_shards, placed)
    for shard in jax.tree.leaves(shards):
        shard.copy_to_host_async()  # all at once
    return jax.tree.map(np.concatenate, shards, is_leaf=lambda x: isinstance(x, list))


def _own_shards(rows: Array) -> list[Array]:
    by_start = {shard.index[0].start or 0: shard.data for shard in rows.addressable_shards}  # some are there twice
    return [by_start[start] for start in sorted(by_start)]


def sum_over_hosts(figures: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The sum of what every host has, on all of them."""
    return figures if jax.process_count() == 1 else multihost_utils.process_allgather(figures).sum(axis=0)


def of_all_hosts(number: int) -> list[int]:
    """Gathers a value of every host on all hosts."""
    if jax.process_count() == 1:
        return [number]
    return multihost_utils.process_allgather(np.int32(number)).tolist()


def say(text: str) -> None:
    """Print, once per job."""
    if jax.process_index() == 0:
        print(text, flush=True)


def global_batch(local: Any, mesh: Mesh, batch: int) -> Any:
    """Puts this host's rows (a tree of arrays) on its devices, as its part of the global batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, rows, (batch, *rows.shape[1:])), local
    )
