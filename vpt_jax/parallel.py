"""Device mesh and sharding of the batch, the KV cache and the parameters: data, fully sharded and tensor parallelism.

Mesh axes: `data` splits the batch; `fsdp` splits the batch and the parameters; `tensor` splits features and heads.
Sharding rules assign tensors to devices: pairs of a regular expression on the tensor's path and a PartitionSpec; the
first match applies.
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
# Rows of the batch and of the KV cache. With `data` first, XLA (of JAX 0.10) computed wrong gradients of a step on a
# 2x2x2 mesh; tests/training/test_meshes.py would show it.
BATCH = PartitionSpec(("fsdp", "data"))
# Frames of all rows in one axis: the image stacks process each frame separately, so all devices share the frames.
FRAMES = PartitionSpec(("fsdp", "data", "tensor"))

ShardingRules = Sequence[tuple[str, PartitionSpec]]

# Matrices into a wider or head-split space are split by output over `tensor`, the ones out of it by input, so that one
# reduction per residual branch is enough; the other side is split over `fsdp`. Tensors without a rule are replicated.
RULES: dict[str, ShardingRules] = {
    "default": (
        (r"^memory/", BATCH),
        (r"attention/(query|key|value|relative)/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"attention/out/kernel$", PartitionSpec("tensor", "fsdp")),
        (r"mlp_in/dense/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"mlp_out/kernel$", PartitionSpec("tensor", "fsdp")),
        (r"encoder/.*conv/kernel$", PartitionSpec(None, None, "fsdp", "tensor")),
        (r"encoder/(dense|project)/dense/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"text/\w+/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"last/dense/kernel$", PartitionSpec("fsdp", "tensor")),
        (r"actions/.*/kernel$", PartitionSpec("fsdp", "tensor")),
    ),
    "replicate": ((r"^memory/", BATCH),),
}


def start_processes(coordinator: str, num_processes: int, process_id: int) -> None:
    """Join the other processes of a job (`jax.distributed.initialize`), if `coordinator` is given.

    Args:
        coordinator: `host:port` of process 0; "": a single process; "auto": JAX detects the coordinator and the number
            of processes, on TPU pods and under Slurm and Kubernetes.
        num_processes: of the job.
        process_id: of this process, from 0.

    Process 0 listens on all network interfaces, without authentication, unless the coordinator is this machine's
    loopback address: then on that alone. SIGTERM and SIGHUP then make all processes save and exit (`loop.StopSignal`).
    """
    if coordinator == "auto":
        jax.distributed.initialize()
    elif coordinator:
        bound = coordinator if _is_loopback(coordinator) else None
        jax.distributed.initialize(coordinator, num_processes, process_id, coordinator_bind_address=bound)
    if coordinator:
        stopping.delegate_sigterm()  # JAX has installed a handler of its own


def _is_loopback(coordinator: str) -> bool:
    host = coordinator.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name
        return False


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Device mesh over `devices` (default: those of all hosts); one size may be -1, which is inferred from the others.

    With several TPU slices, `data` is split between slices; `fsdp` and `tensor` stay within a slice.

    Raises:
        ValueError: the sizes do not fit the devices or the slices.
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
    # GSPMD decides the sharding of activations; with JAX's default, Explicit, every operation would have to specify it.
    # Chips may be wired as 16x16 where the mesh is 8x16x2.
    if slices > 1:
        in_slice, between = (sizes[0] // slices, *sizes[1:]), (slices, 1, 1)
        device_grid = create_hybrid_device_mesh(in_slice, between, devices, allow_split_physical_axes=True)
    else:
        device_grid = create_device_mesh(tuple(sizes), devices, allow_split_physical_axes=True)
    return Mesh(device_grid, AXES, axis_types=(AxisType.Auto,) * 3)


def _count_slices(devices: Sequence[jax.Device]) -> int:
    """Number of TPU slices. JAX numbers hosts of GPUs as slices too: they are not counted."""
    return len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1


def tree_shardings(shapes: Any, mesh: Mesh, rules: ShardingRules) -> Any:
    """Sharding of every leaf of a tree of shapes; axes that do not divide a dimension are dropped, the last first."""
    return jax.tree.map_with_path(
        lambda path, leaf: NamedSharding(mesh, _fit_spec(find_spec(path_name(path), rules), leaf.shape, mesh)), shapes
    )


def find_spec(path: str, rules: ShardingRules) -> PartitionSpec:
    """PartitionSpec of the first rule that matches a path; replicated, if none matches."""
    return next((spec for pattern, spec in rules if re.search(pattern, path)), PartitionSpec())


def _fit_spec(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    return PartitionSpec(*(_dividing_axes(axes, size, mesh) for axes, size in zip(spec, shape, strict=False)))


def _dividing_axes(
    axes: str | tuple[str, ...] | None, size: int, mesh: Mesh | AbstractMesh
) -> tuple[str, ...] | str | None:
    if axes is None or isinstance(axes, str):
        return axes if axes and size % mesh.shape[axes] == 0 else None
    while size % prod(mesh.shape[axis] for axis in axes):
        axes = axes[:-1]
    return axes


def path_name(path: Sequence[Any]) -> str:
    """Path of a leaf in its tree, such as `params/encoder/dense/norm/scale`."""
    return jax.tree_util.keystr(tuple(path), simple=True, separator="/")


def sharding_table(shapes: Any, shardings: Any) -> str:
    """Table of all shardings, a line per leaf: path, shape, PartitionSpec, size on one device in MiB."""
    rows = []
    for (path, leaf), sharding in zip(jax.tree.leaves_with_path(shapes), jax.tree.leaves(shardings), strict=True):
        size = int(np.prod(sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize
        rows.append(f"{path_name(path):<72} {leaf.shape!s:<22} {sharding.spec!s:<40} {size / 2**20:10.3f} MiB")
    return "\n".join(rows)


def constrain(x: Array, spec: PartitionSpec) -> Array:
    """Sharding constraint of `x` on the mesh of `jax.set_mesh`; without a mesh from `make_mesh`, `x` itself.

    Axes of `spec` that do not divide a dimension are dropped, the last first.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.axis_names != AXES else jax.lax.with_sharding_constraint(x, _fit_spec(spec, x.shape, mesh))


def is_sharded() -> bool:
    """Return True if the mesh of `jax.set_mesh` has several devices."""
    return jax.sharding.get_abstract_mesh().size > 1


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of the batch and the KV cache: split by rows."""
    return NamedSharding(mesh, BATCH)


def local_rows(mesh: Mesh, batch: int) -> list[int]:
    """Rows of the global batch that this host's devices hold, in order.

    Raises:
        ValueError: the batch cannot be split evenly.
    """
    try:
        slices = batch_sharding(mesh).addressable_devices_indices_map((batch,)).values()
    except ValueError as error:
        rows = mesh.shape["data"] * mesh.shape["fsdp"]
        raise ValueError(f"a batch of {batch} cannot be split over data x fsdp = {rows} devices evenly") from error
    return sorted({row for index in slices if index for row in range(batch)[index[0]]})


def local_batch(device_arrays: Any) -> Any:
    """Copy this host's rows of a tree of global arrays to host memory: the inverse of `global_batch`."""
    if all(rows.sharding.num_devices == 1 for rows in jax.tree.leaves(device_arrays)):
        return jax.device_get(device_arrays)  # the same in a third of the time, which matters in acting
    shards = jax.tree.map(_local_shards, device_arrays)
    for shard in jax.tree.leaves(shards):
        shard.copy_to_host_async()  # start all copies before waiting for one
    return jax.tree.map(np.concatenate, shards, is_leaf=lambda x: isinstance(x, list))


def _local_shards(rows: Array) -> list[Array]:
    by_start = {shard.index[0].start or 0: shard.data for shard in rows.addressable_shards}  # replicas only once
    return [by_start[start] for start in sorted(by_start)]


def sum_over_hosts(figures: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Sum of an array over all hosts (all-reduce), returned on every host."""
    return figures if jax.process_count() == 1 else multihost_utils.process_allgather(figures).sum(axis=0)


def gather_from_hosts(number: int) -> list[int]:
    """Gather an integer from every host (all-gather), returned on every host."""
    if jax.process_count() == 1:
        return [number]
    return multihost_utils.process_allgather(np.int32(number)).tolist()


def log(message: str) -> None:
    """Print a line once per job: on process 0 only."""
    if jax.process_index() == 0:
        print(message, flush=True)


def global_batch(local: Any, mesh: Mesh, batch: int) -> Any:
    """Global arrays of `batch` rows from the rows of each host: puts this host's tree of arrays on its devices."""
    sharding = batch_sharding(mesh)
    if mesh.size == 1:
        return jax.device_put(local, sharding)  # the same in less time, which matters in acting
    return jax.tree.map(
        lambda rows: jax.make_array_from_process_local_data(sharding, rows, (batch, *rows.shape[1:])), local
    )
