"""Roofline of a compiled step on a device: memory by kind, FLOPs, memory traffic, collectives, lower bounds of time.

The times are the least that each resource needs by itself at its peak. A real step takes longer than the longest of
them, since nothing runs at its peak and not everything overlaps.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, NamedTuple

import jax
from jax.stages import Compiled

GIB = 2**30


class Chip(NamedTuple):
    """Peak memory, speed and bandwidths of a device, from its data sheet (cloud.google.com/tpu/docs, NVIDIA)."""

    memory: float  # bytes of HBM
    flops: float  # bfloat16 operations per second, dense
    memory_bandwidth: float  # bytes per second
    network_bandwidth: float  # bytes per second to all neighbours together
    clock: float = 0.0  # cycles per second; 0: not needed, XLA estimates cycles for TPUs only


# Google's data sheets have no clocks. v5e's is in "How to Scale Your Model" (jax-ml.github.io/scaling-book/tpus). Those
# of v5p and v6e are the peak FLOPs divided by those of a cycle: 2 x 128 x 128 of each of v5p's eight matrix units, and
# four times 2 x 256 x 256 on v6e. XLA's estimates agree: in a copy within memory they reach 81% of the data sheet's
# bandwidth on v5e and on v6e, and 72% on v5p.
CHIPS = {  # by JAX's name of the kind of device
    "TPU v5 lite": Chip(16 * GIB, 197e12, 819e9, 200e9, clock=1.5e9),
    "TPU v5": Chip(95 * GIB, 459e12, 2765e9, 600e9, clock=1.75e9),
    "TPU v6 lite": Chip(32 * GIB, 918e12, 1640e9, 448e9, clock=1.75e9),
    "NVIDIA A100-SXM4-80GB": Chip(80 * GIB, 312e12, 2039e9, 300e9),
    "NVIDIA H100 80GB HBM3": Chip(80 * GIB, 989e12, 3350e9, 450e9),
    "NVIDIA H200": Chip(141 * GIB, 989e12, 4800e9, 450e9),
}

_SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4,
          "s64": 8, "u64": 8, "f64": 8,
          "f8e4m3fn": 1, "f8e5m2": 1}  # fmt: skip
_COLLECTIVES = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
# "name = shape kind(operands)": the asynchronous ones are counted where they start
_INSTRUCTION = re.compile(rf"= (?P<shape>.+?) (?P<kind>{'|'.join(_COLLECTIVES)})(?P<start>-start)?\(")
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+\w*)\[([\d,]*)\]")
_GROUPS = re.compile(r"replica_groups=(?:\{\{([\d,]+)\}|\[(\d+),(\d+)\])")


class Collective(NamedTuple):
    """Collective operation of a program: the devices of a group exchange a tensor."""

    kind: str
    bytes: int  # of the whole tensor that is reduced or gathered, on each device
    devices: int  # in a group

    def bytes_sent(self) -> float:
        """Lower bound of the bytes that each device sends, reached by a ring algorithm."""
        share = (self.devices - 1) / self.devices
        return self.bytes * {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)


class Cost(NamedTuple):
    """Cost of one step on one device."""

    memory: dict[str, int]  # bytes by kind
    flops: float
    bytes: float  # to and from memory
    collectives: list[Collective]

    @property
    def total_memory(self) -> int:
        """Bytes in use at the same time."""
        return sum(self.memory.values())

    def seconds(self, chip: Chip) -> dict[str, float]:
        """Lower bound of the step's time by resource, in seconds."""
        sent = sum(collective.bytes_sent() for collective in self.collectives)
        return {
            "arithmetic": self.flops / chip.flops,
            "memory traffic": self.bytes / chip.memory_bandwidth,
            "network": sent / chip.network_bandwidth,
        }


def cost_of(compiled: Compiled, buffers: Mapping[str, Any]) -> Cost:
    """Cost of a compiled train step; FLOPs, traffic and collectives in a loop are counted once, as XLA does.

    Args:
      compiled: the step.
      buffers: inputs of the step by kind: trees of shapes with their shardings.

    Raises:
      ValueError: the compiler reports no cost.
    """
    devices = jax.tree.leaves(buffers)[0].sharding.num_devices
    analysis, properties, program = compiled.memory_analysis(), compiled.cost_analysis(), compiled.as_text()
    if analysis is None or properties is None or program is None:
        raise ValueError("this compiler reports no cost of a program (memory_analysis, cost_analysis or as_text)")
    memory = {kind: device_bytes(shapes) for kind, shapes in buffers.items()}
    arguments = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    memory["padding and rest"] = arguments - sum(memory.values())
    memory |= {"temporaries": analysis.temp_size_in_bytes, "program": analysis.generated_code_size_in_bytes}
    return Cost(memory, properties["flops"], properties["bytes accessed"], list(find_collectives(program, devices)))


def program_bytes(compiled: Compiled) -> int:
    """Bytes that a program needs on a device while it runs, arguments and results included.

    Raises:
      ValueError: the compiler does not report it.
    """
    if (analysis := compiled.memory_analysis()) is None:
        raise ValueError("this compiler reports no memory of a program (memory_analysis)")
    arguments = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return arguments + analysis.temp_size_in_bytes + analysis.generated_code_size_in_bytes


def device_bytes(shapes: Any) -> int:
    """Bytes of a tree of tensors on one device; its leaves are shapes with shardings."""
    return sum(prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def find_collectives(program: str, devices: int) -> Iterator[Collective]:
    """Parses the collectives from the HLO text of a program for `devices` devices; one in a loop is counted once."""
    for line in program.splitlines():
        if found := _INSTRUCTION.search(line):
            kind, group = found["kind"], _group_size(line, devices)
            sizes = [_bytes(*shape) for shape in _SHAPE.findall(found["shape"])]
            if found["start"] and kind != "all-reduce":  # the result holds the operands, then the results, then flags
                results = sizes[1:2] if kind == "collective-permute" else sizes[len(sizes) // 2 :]
            else:
                results = sizes
            # A reduced and scattered tensor's result is the device's part of it.
            yield Collective(kind, sum(results) * (group if kind == "reduce-scatter" else 1), group)


def _group_size(line: str, devices: int) -> int:
    """Number of devices that take part: all if no groups are given, 2 (sender, receiver) in a permutation."""
    groups = _GROUPS.search(line)
    if groups is None:
        return 2 if "source_target_pairs" in line else devices
    return groups[1].count(",") + 1 if groups[1] else int(groups[3])


def shape_bytes(shape: str) -> int:
    """Bytes of all tensors in an HLO shape, such as `(f32[8,128]{1,0}, bf16[4]{0})`."""
    return sum(_bytes(*tensor) for tensor in _SHAPE.findall(shape))


def _bytes(dtype: str, dimensions: str) -> int:
    return _SIZES.get(dtype, 4) * prod(int(size) for size in dimensions.split(",") if size)


def by_kind(collectives: list[Collective]) -> Mapping[str, tuple[int, int]]:
    """Number and total bytes of the collectives, by kind."""
    number: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for collective in collectives:
        number[collective.kind] += 1
        size[collective.kind] += collective.bytes
    return {kind: (number[kind], size[kind]) for kind in number}
