"""Properties of a layout (mesh, batch, number of hosts) that make a step slow and that no error shows."""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from jax.sharding import Mesh

from vpt_jax.parallel import batch_sharding

LANES = 128  # of a TPU's vector unit
# Convolutions of up to this many channels have their images along the lanes (XLA:TPU, by its estimates: 64 channels,
# 64 images 1.12 million cycles, 128 images 0.80; at 256 channels the cycles are proportional to the images).
CHANNELS_BESIDE_LANES = 192


def layout_warnings(mesh: Mesh, batch: int, images: int, widths: Sequence[int]) -> Iterator[str]:
    """Sentences about what is slow in a layout.

    Args:
      mesh: of the devices, attached or not.
      batch: rows.
      images: of a step, or of a microbatch, on all devices.
      widths: channels of the image stacks.
    """
    chips = prod(mesh.devices.shape)
    if min(widths) <= CHANNELS_BESIDE_LANES and (images % chips or images // chips % LANES):
        yield (
            f"{images / chips:g} images per chip are no multiple of {LANES}, the lanes along which images lie in "
            f"convolutions of up to {CHANNELS_BESIDE_LANES} channels: the rest of the lanes compute nothing. Change "
            "config.data.batch, config.data.grad_accum_steps or config.mesh"
        )
    if (reads := reads_per_frame(mesh, batch)) > 1:
        yield (
            f"every frame is read and decoded {reads:g} times, because devices of several hosts hold the same rows: "
            "lower config.mesh.tensor, or raise config.mesh.data or config.mesh.fsdp"
        )


def reads_per_frame(mesh: Mesh, batch: int) -> float:
    """Number of hosts that read a row, on average: each host reads the rows that its devices hold."""
    rows_of_host: dict[int, set[int]] = {}
    indices: Mapping[Any, tuple[slice, ...]] = batch_sharding(mesh).devices_indices_map((batch,))
    for device, (rows,) in indices.items():
        rows_of_host.setdefault(device.process_index, set()).update(range(batch)[rows])
    return sum(map(len, rows_of_host.values())) / batch
