"""Compile the train step ahead of time for TPUs that are not attached; report its memory, FLOPs and estimated time.

    python launch/compile.py --config=configs/foundation.py:500m,v5e-256 --topology=v5e:16x16
    python launch/compile.py --config=configs/idm.py:paper,v5p-128 --topology=v5p:4x4x8 --json
    python launch/compile.py --config=configs/rl_doom.py --config.init_from=any --topology=v5e:2x2

The step is the same as that of launch/train.py with the same config. Needs the `tpu` extra and no TPU. Prints a
chip's memory by kind, and two times of a step. The compiler's estimate adds the cycles that XLA's cost model gives to
each operation; with it come the share of the chip's peak and the largest operations. The roofline is the least time
that each resource needs, and promises more than any program reaches. Warns of layouts that are slow. The exit status is
1 if the step does not fit. With gradient accumulation (config.data.grad_accum_steps) there is no roofline: XLA counts
the arithmetic of one microbatch. The estimate counts all.
"""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # TPUs are only the target of the compilation
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu queries the cloud's metadata server
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # several compilations at once: no chip is taken

import jax
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh
from jax.stages import Wrapped
from ml_collections import ConfigDict

from vpt_jax.actions.minerl import MINERL
from vpt_jax.models.flops import TRAINING_FACTOR, policy_flops
from vpt_jax.system import command_line
from vpt_jax.system.errors import UserError
from vpt_jax.training.cycles import CycleEstimate, estimate_cycles, is_transfer
from vpt_jax.training.layout_checks import layout_warnings
from vpt_jax.training.ppg import setup as ppg
from vpt_jax.training.remat_choice import SPARE
from vpt_jax.training.roofline import CHIPS, GIB, Chip, Cost, by_kind, cost_of, device_bytes
from vpt_jax.training.setup import Step, batch_shapes, check, make_mesh, make_setup, step_buffers, training_flops
from vpt_jax.training.stages import PPG_STAGE, STAGES, head_statistics

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:16x16", "TPU type and its shape in chips.")
_SIZE = flags.DEFINE_integer(
    "size", 128, "Height and width of the frames (reinforcement learning: config.height, .width)."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of tables.")
_HLO = flags.DEFINE_string(
    "hlo", "", "File for the text of the compiled program, in which operations can be looked up."
)
_LARGEST = flags.DEFINE_integer("largest", 10, "Number of operations to list.")


class CompileError(UserError):
    """The step cannot be compiled for the topology; the message has the remedy."""


class Program(NamedTuple):
    """Step to compile, with its arguments and buffers."""

    step: Wrapped | Step
    arguments: tuple[Any, ...]  # shapes, with their shardings
    buffers: dict[str, Any]  # the same by kind
    batch: int  # rows
    length: int  # of a row, in frames
    grad_accum_steps: int
    flops_per_frame: float  # of the model, in training
    widths: tuple[int, ...]  # channels of the image stacks
    resident: dict[str, Any]  # other buffers that stay in memory during the step, by kind


def main(config: ConfigDict) -> None:
    """Compiles the step of a config, and prints its cost; exits with 1 if it does not fit."""
    devices = topology_devices(_TOPOLOGY.value)
    mesh = make_mesh(config, devices)
    make = wake_program if config.stage == PPG_STAGE else step_program
    program = make(config, mesh)
    start_time = time.monotonic()
    with jax.set_mesh(mesh):
        lowered = program.step.lower(*program.arguments)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            raise CompileError(explain_failure(error)) from error
    text = compiled.as_text() or ""
    if _HLO.value:
        Path(_HLO.value).write_text(text)
    cost = cost_of(compiled, program.buffers)
    cost.memory.update({kind: device_bytes(shapes) for kind, shapes in program.resident.items()})
    estimated = estimate(program, estimate_cycles(text), cost, devices)
    result = summary(program, cost, devices, mesh, estimated) | {"compile_seconds": time.monotonic() - start_time}
    print(json.dumps(result) if _JSON.value else "\n".join(table(result)))
    if not result["fits"]:
        sys.exit(1)


def step_program(config: ConfigDict, mesh: Mesh) -> Program:
    """Train step of behavioural cloning or inverse dynamics."""
    check(config, mesh)
    frame_shape = _SIZE.value, _SIZE.value, 3
    steps = config.steps or 1_000_000  # used by the learning rate schedule alone
    setup = make_setup(config, mesh, frame_shape, head_statistics(config).marginal.uniform(MINERL), steps)
    batch = batch_shapes(config, mesh, frame_shape)
    buffers = step_buffers(setup.shapes, batch)
    arguments = setup.shapes, batch
    rows, length, grad_accum_steps = config.data.batch, config.data.length, config.data.grad_accum_steps
    flops, widths = training_flops(config, frame_shape, MINERL), STAGES[config.stage].model.presets[config.model.preset]
    return Program(setup.step, arguments, buffers, rows, length, grad_accum_steps, flops, widths["widths"], {})


def wake_program(config: ConfigDict, mesh: Mesh) -> Program:
    """Wake step of reinforcement learning (PPG), which trains the policy. Sleep steps need as much."""
    ppg.check(config, mesh)
    setup = ppg.make_setup(config, mesh)
    arguments = ppg.wake_arguments(config, mesh, setup)
    buffers, resident = ppg.step_buffers(*arguments), ppg.resident_buffers(config, *arguments)
    rows, length, policy = config.num_envs, config.unroll_length, setup.policy
    flops = TRAINING_FACTOR * policy_flops(policy, *ppg.frame_size(config), length)
    return Program(setup.learner.wake, arguments, buffers, rows, length, 1, flops, policy.widths, resident)


def topology_devices(topology: str) -> list[Any]:
    """Devices of a TPU topology, without the hardware; raises `CompileError`."""
    try:
        devices: list[Any] = list(topologies.get_topology_desc(platform="tpu", topology_name=topology).devices)
    except Exception as error:  # whatever libtpu or its absence raises
        raise CompileError(
            f"no topology {topology!r} ({str(error).splitlines()[0]}); names are like v5e:16x16, v5p:4x4x8 or v6e:2x2, "
            'and need libtpu: pip install -c constraints.txt -e ".[tpu]"'
        ) from error
    if (kind := devices[0].device_kind) not in CHIPS:
        raise CompileError(
            f"vpt_jax/training/roofline.py has no figures of a {kind}; it has those of {', '.join(CHIPS)}"
        )
    return devices


def explain_failure(error: Exception) -> str:
    """One line of text for a compiler error: memory that is exceeded, and how to use less."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return f"the compiler failed: {text.splitlines()[0]}"
    used = re.search(r"Used \S+ of \S+ \w+\. Exceeded \w+ capacity by \S+\.", text)
    return (
        f"the step does not fit into a chip's memory. {used[0] if used else text.splitlines()[0]} Lower "
        "config.data.batch (config.num_envs), raise config.data.grad_accum_steps, set config.model.remat=stacks, or "
        "split more by config.mesh.fsdp"
    )


def summary(program: Program, cost: Cost, devices: list[Any], mesh: Mesh, estimated: dict[str, Any]) -> dict[str, Any]:
    """Cost of a program as JSON values: memory in bytes, the estimate, and, without accumulation, the roofline."""
    chip, images = CHIPS[devices[0].device_kind], program.batch * program.length // program.grad_accum_steps
    result = {
        "topology": _TOPOLOGY.value,
        "chips": len(devices),
        "mesh": dict(mesh.shape),
        "batch": program.batch,
        "parts": program.grad_accum_steps,
        "memory": cost.memory,
        "memory_total": cost.total_memory,
        "memory_of_chip": chip.memory,
        "memory_spare": 1 - cost.total_memory / chip.memory,
        "fits": cost.total_memory <= (1 - SPARE) * chip.memory,
        "warnings": list(layout_warnings(mesh, program.batch, images, program.widths)),
        "estimate": estimated,
    }
    return result | (roofline(program, cost, chip) if program.grad_accum_steps == 1 else {})


def estimate(program: Program, cycles: CycleEstimate, cost: Cost, devices: list[Any]) -> dict[str, Any]:
    """The compiler's estimate as JSON values; with a network that takes longer than the chip, that is the time."""
    chip = CHIPS[devices[0].device_kind]
    seconds = cycles.cycles / chip.clock
    network = cost.seconds(chip)["network"] * program.grad_accum_steps  # at most: some collectives are outside the loop
    frames_per_second = program.batch * program.length / max(seconds, network)
    return {
        "cycles": cycles.cycles,
        "seconds": seconds,
        "frames_per_second": frames_per_second,
        "share_of_peak": frames_per_second * program.flops_per_frame / len(devices) / chip.flops,
        "largest": [
            {"cycles": operation.cycles, "name": operation.name, "source": operation.source}
            for operation in cycles.largest(_LARGEST.value)
        ],
        "without_estimate": cycles.uncounted,
        "loops_of_unknown_length": cycles.endless,
    }


def roofline(program: Program, cost: Cost, chip: Chip) -> dict[str, Any]:
    """FLOPs, bytes, collectives and lower bounds of time in seconds, as JSON values."""
    seconds = cost.seconds(chip)
    bound = max(seconds, key=lambda name: seconds[name])
    return {
        "flops": cost.flops,
        "bytes": cost.bytes,
        "collectives": by_kind(cost.collectives),
        "seconds": seconds,
        "bound": bound,
        "frames_per_second_at_most": program.batch * program.length / seconds[bound],
    }


def table(result: dict[str, Any]) -> list[str]:
    """Lines of text for a `summary`."""
    return [
        f"{result['topology']}: {result['chips']} chips, mesh {result['mesh']}, batch {result['batch']}, "
        f"compiled in {result['compile_seconds']:.0f} s",
        "",
        *(f"  {kind:<20} {size / GIB:8.3f} GiB" for kind, size in result["memory"].items()),
        f"  {'together':<20} {result['memory_total'] / GIB:8.3f} GiB of {result['memory_of_chip'] / GIB:.0f}, "
        f"{result['memory_spare']:.0%} spare: " + ("fits" if result["fits"] else f"less than {SPARE:.0%} spare"),
        *(_roofline_lines(result) if "seconds" in result else []),
        *_estimate_lines(result["estimate"]),
        *(line for warning in result["warnings"] for line in ("", f"  warning: {warning}")),
    ]


def _roofline_lines(result: dict[str, Any]) -> list[str]:
    return [
        "",
        "  roofline, which no program reaches:",
        f"  {result['flops'] / 1e12:.2f} TFLOP, {result['bytes'] / GIB:.1f} GiB of memory traffic per chip",
        *(f"  {number} x {kind}, {size / GIB:.3f} GiB" for kind, (number, size) in result["collectives"].items()),
        *(f"  {name:<20} {1000 * seconds:8.1f} ms" for name, seconds in result["seconds"].items()),
        f"  bound by {result['bound']}: at most {result['frames_per_second_at_most']:,.0f} frames/s",
    ]


def _estimate_lines(estimated: dict[str, Any]) -> list[str]:
    """Lines of text for an `estimate`."""
    total = max(estimated["cycles"], 1)
    skipped = {kind: figures for kind, figures in estimated["without_estimate"].items() if not is_transfer(kind)}
    largest = sorted(skipped, key=lambda kind: -skipped[kind][1])[:5]
    number, size = (sum(figures[i] for figures in skipped.values()) for i in range(2))
    loops = estimated["loops_of_unknown_length"]
    return [
        "",
        "  the compiler's estimate, without transfers:",
        f"  {estimated['cycles'] / 1e6:.1f} million cycles, {1000 * estimated['seconds']:.1f} ms, "
        f"{estimated['share_of_peak']:.1%} of peak, {estimated['frames_per_second']:,.0f} frames/s",
        f"  without an estimate: {number} operations with {size / 2**20:.1f} MiB of results, most of it of "
        + ", ".join(f"{skipped[kind][0]} {kind}" for kind in largest),
        *([f"  {loops} loops of unknown length, counted once"] if loops else []),
        "  largest operations:",
        *(
            f"  {operation['cycles'] / 1e6:8.2f} million {operation['cycles'] / total:6.1%}  {operation['source']}"
            f"  [{operation['name']}]"
            for operation in estimated["largest"]
        ),
    ]


if __name__ == "__main__":
    command_line.run(main, "foundation")
