"""Compile the train step for machines that are not there, and say what it needs of them.

    python launch/compile.py --config=configs/foundation.py:500m,v5e-256 --topology=v5e:16x16
    python launch/compile.py --config=configs/idm.py:paper,v5p-128 --topology=v5p:4x4x8 --json
    python launch/compile.py --config=configs/rl_doom.py --config.init_from=any --topology=v5e:2x2

It is the very step of launch/train.py with the same config. Needs the `tpu` extra and no TPU. Prints the memory of a
chip by kind, arithmetic and traffic of a step, the collectives, and the least time that each resource needs.
The exit status is 1 where the step does not fit. Of a batch in parts, memory alone is told: XLA counts the arithmetic
of one part.
"""

import json
import os
import re
import sys
import time
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the chips are only compiled for
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # libtpu would ask a cloud machine what it is

import jax
from absl import flags
from jax.experimental import topologies
from jax.sharding import Mesh
from jax.stages import Wrapped
from ml_collections import ConfigDict

from vpt_jax.system import command_line
from vpt_jax.training.ppg import setup as ppg
from vpt_jax.training.roofline import CHIPS, GIB, Chip, Cost, by_kind, cost_of, device_bytes
from vpt_jax.training.setup import KINDS, ConfigError, Step, batch_shapes, check, held_by, make_mesh, make_setup

_TOPOLOGY = flags.DEFINE_string("topology", "v5e:16x16", "TPU type and its shape in chips.")
_SIZE = flags.DEFINE_integer(
    "size", 128, "Height and width of the frames (reinforcement learning: config.height, .width)."
)
_JSON = flags.DEFINE_bool("json", False, "Print one JSON object instead of tables.")
_SPARE = 0.1  # of a chip's memory that should stay free: for evaluation, and what the runtime keeps


class CompileError(Exception):
    """The step cannot be compiled as asked; the message says what to do."""


class Program(NamedTuple):
    """What is compiled."""

    step: Wrapped | Step
    arguments: tuple[Any, ...]  # shapes, with their shardings
    held: dict[str, Any]  # the same by kind
    batch: int  # rows
    length: int  # of a row, in frames
    parts: int  # of the batch, one after the other
    beside: dict[str, Any]  # what lies there meanwhile, by kind


def main(config: ConfigDict) -> None:
    devices = find_devices(_TOPOLOGY.value)
    mesh = make_mesh(config, devices)
    make = wake_of if config.stage == "ppg" else step_of
    program = make(config, mesh)
    began = time.monotonic()
    with jax.set_mesh(mesh):
        lowered = program.step.lower(*program.arguments)
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            raise CompileError(explain(error)) from error
    cost = cost_of(compiled, program.held)
    cost.memory.update({kind: device_bytes(shapes) for kind, shapes in program.beside.items()})
    result = summary(program, cost, devices, dict(mesh.shape)) | {"compile_seconds": time.monotonic() - began}
    print(json.dumps(result) if _JSON.value else "\n".join(table(result)))
    if not result["fits"]:
        sys.exit(1)


def step_of(config: ConfigDict, mesh: Mesh) -> Program:
    """Of behavioural cloning, or inverse dynamics."""
    check(config, mesh)
    frame_shape = _SIZE.value, _SIZE.value, 3
    steps = config.steps or 1_000_000  # of the learning rate's schedule alone
    setup = make_setup(config, mesh, frame_shape, KINDS[config.stage].marginal.uniform(), steps)
    batch = batch_shapes(config, mesh, frame_shape)
    held = held_by(setup.shapes, batch)
    return Program(
        setup.step, (setup.shapes, batch), held, config.data.batch, config.data.length, config.data.parts, {}
    )


def wake_of(config: ConfigDict, mesh: Mesh) -> Program:
    """Of reinforcement learning: the step that learns to act. Those of the sleep need as much."""
    ppg.check(config, mesh)
    setup = ppg.make_setup(config, mesh)
    arguments = ppg.wake_arguments(config, mesh, setup)
    held, beside = ppg.held_by(*arguments), ppg.held_beside(config, *arguments)
    return Program(setup.learner.wake, arguments, held, config.games, config.length, 1, beside)


def find_devices(topology: str) -> list[Any]:
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


def explain(error: Exception) -> str:
    """What the compiler says of memory, in a line."""
    text = str(error)
    if "RESOURCE_EXHAUSTED" not in text:
        return f"the compiler failed: {text.splitlines()[0]}"
    used = re.search(r"Used \S+ of \S+ \w+\. Exceeded \w+ capacity by \S+\.", text)
    return (
        f"the step does not fit into a chip's memory. {used[0] if used else text.splitlines()[0]} Lower "
        "config.data.batch (config.games), raise config.data.parts, set config.model.remat, or split more by "
        "config.mesh.fsdp"
    )


def summary(program: Program, cost: Cost, devices: list[Any], mesh: dict[str, int]) -> dict[str, Any]:
    chip = CHIPS[devices[0].device_kind]
    result = {
        "topology": _TOPOLOGY.value,
        "chips": len(devices),
        "mesh": mesh,
        "batch": program.batch,
        "parts": program.parts,
        "memory": cost.memory,
        "memory_total": cost.total_memory,
        "memory_of_chip": chip.memory,
        "memory_spare": 1 - cost.total_memory / chip.memory,
        "fits": cost.total_memory <= (1 - _SPARE) * chip.memory,
    }
    return result | (roofline(program, cost, chip) if program.parts == 1 else {})


def roofline(program: Program, cost: Cost, chip: Chip) -> dict[str, Any]:
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
    lines = [
        f"{result['topology']}: {result['chips']} chips, mesh {result['mesh']}, batch {result['batch']}, "
        f"compiled in {result['compile_seconds']:.0f} s",
        "",
        *(f"  {kind:<20} {size / GIB:8.3f} GiB" for kind, size in result["memory"].items()),
        f"  {'together':<20} {result['memory_total'] / GIB:8.3f} GiB of {result['memory_of_chip'] / GIB:.0f}, "
        f"{result['memory_spare']:.0%} spare: " + ("fits" if result["fits"] else f"less than {_SPARE:.0%} spare"),
    ]
    if "seconds" in result:
        lines += ["", f"  {result['flops'] / 1e12:.2f} TFLOP, {result['bytes'] / GIB:.1f} GiB of memory traffic a chip"]
        lines += [
            f"  {number} x {kind}, {size / GIB:.3f} GiB" for kind, (number, size) in result["collectives"].items()
        ]
        lines += ["", *(f"  {name:<20} {1000 * taken:8.1f} ms" for name, taken in result["seconds"].items())]
        lines += [f"  bound by {result['bound']}: at most {result['frames_per_second_at_most']:,.0f} frames/s"]
    return lines


if __name__ == "__main__":
    command_line.run(main, "configs/foundation.py", (CompileError, ConfigError))
