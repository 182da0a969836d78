"""Compile the train step ahead of time for TPUs that are not attached; report its memory, FLOPs and lower time bounds.

    python launch/compile.py --config=configs/foundation.py:500m,v5e-256 --topology=v5e:16x16
    python launch/compile.py --config=configs/idm.py:paper,v5p-128 --topology=v5p:4x4x8 --json
    python launch/compile.py --config=configs/rl_doom.py --config.init_from=any --topology=v5e:2x2

The step is the same as that of launch/train.py with the same config. Needs the `tpu` extra and no TPU. Prints a
chip's memory by kind, FLOPs and memory traffic of a step, the collectives, and the least time that each resource needs.
The exit status is 1 if the step does not fit. With gradient accumulation (config.data.grad_accum_steps), only memory
is reported: XLA counts the arithmetic of one microbatch.
"""

import json
import os
import re
import sys
import time
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # TPUs are only the target of the compilation
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else libtpu queries the cloud's metadata server

import jax
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh
from jax.stages import Wrapped
from ml_collections import ConfigDict

from vpt_jax.actions.minerl import MINERL
from vpt_jax.system import command_line
from vpt_jax.system.errors import UserError
from vpt_jax.training.ppg import setup as ppg
from vpt_jax.training.roofline import CHIPS, GIB, Chip, Cost, by_kind, cost_of, device_bytes
from vpt_jax.training.setup import Step, batch_shapes, check, make_mesh, make_setup, step_buffers
from vpt_jax.training.stages import PPG_STAGE, head_statistics

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:16x16", "TPU type and its shape in chips.")
_SIZE = flags.DEFINE_integer(
    "size", 128, "Height and width of the frames (reinforcement learning: config.height, .width)."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of tables.")
_SPARE = 0.1  # share of a chip's memory that should stay free: for evaluation, and for the runtime


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
    cost = cost_of(compiled, program.buffers)
    cost.memory.update({kind: device_bytes(shapes) for kind, shapes in program.resident.items()})
    result = summary(program, cost, devices, dict(mesh.shape)) | {"compile_seconds": time.monotonic() - start_time}
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
    return Program(setup.step, arguments, buffers, rows, length, grad_accum_steps, {})


def wake_program(config: ConfigDict, mesh: Mesh) -> Program:
    """Wake step of reinforcement learning (PPG), which trains the policy. Sleep steps need as much."""
    ppg.check(config, mesh)
    setup = ppg.make_setup(config, mesh)
    arguments = ppg.wake_arguments(config, mesh, setup)
    buffers, resident = ppg.step_buffers(*arguments), ppg.resident_buffers(config, *arguments)
    return Program(setup.learner.wake, arguments, buffers, config.num_envs, config.unroll_length, 1, resident)


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


def summary(program: Program, cost: Cost, devices: list[Any], mesh: dict[str, int]) -> dict[str, Any]:
    """Cost of a program as JSON values: memory in bytes, and, without gradient accumulation, the roofline."""
    chip = CHIPS[devices[0].device_kind]
    result = {
        "topology": _TOPOLOGY.value,
        "chips": len(devices),
        "mesh": mesh,
        "batch": program.batch,
        "parts": program.grad_accum_steps,
        "memory": cost.memory,
        "memory_total": cost.total_memory,
        "memory_of_chip": chip.memory,
        "memory_spare": 1 - cost.total_memory / chip.memory,
        "fits": cost.total_memory <= (1 - _SPARE) * chip.memory,
    }
    return result | (roofline(program, cost, chip) if program.grad_accum_steps == 1 else {})


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
    lines = [
        f"{result['topology']}: {result['chips']} chips, mesh {result['mesh']}, batch {result['batch']}, "
        f"compiled in {result['compile_seconds']:.0f} s",
        "",
        *(f"  {kind:<20} {size / GIB:8.3f} GiB" for kind, size in result["memory"].items()),
        f"  {'together':<20} {result['memory_total'] / GIB:8.3f} GiB of {result['memory_of_chip'] / GIB:.0f}, "
        f"{result['memory_spare']:.0%} spare: " + ("fits" if result["fits"] else f"less than {_SPARE:.0%} spare"),
    ]
    if "seconds" in result:
        lines += [
            "",
            f"  {result['flops'] / 1e12:.2f} TFLOP, {result['bytes'] / GIB:.1f} GiB of memory traffic per chip",
        ]
        lines += [
            f"  {number} x {kind}, {size / GIB:.3f} GiB" for kind, (number, size) in result["collectives"].items()
        ]
        lines += ["", *(f"  {name:<20} {1000 * seconds:8.1f} ms" for name, seconds in result["seconds"].items())]
        lines += [f"  bound by {result['bound']}: at most {result['frames_per_second_at_most']:,.0f} frames/s"]
    return lines


if __name__ == "__main__":
    command_line.run(main, "foundation")
