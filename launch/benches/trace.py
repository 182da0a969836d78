"""The kernels of a profiler trace by their time, with the modules of the model that they come from.

Reads JAX's own `ProfileData`; TensorFlow is not needed. On GPUs an event is a kernel on a stream; on TPUs and CPUs it
is an instruction of the compiled program.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax.profiler import ProfileData

from vpt_jax.training.cycles import readable_source

# "%name = shape opcode(...), metadata={op_name="path"}" in a program's text
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.\-]+) = .*\bop_name=\"(?P<path>[^\"]+)\"", re.MULTILINE)


class Kernel(NamedTuple):
    """A kernel or instruction of a trace, summed over its calls."""

    name: str
    module: str  # what it computes, by `readable_source`; "" if not known
    seconds: float
    calls: int


def name_modules(program: str) -> dict[str, str]:
    """Module by the name of an instruction, from a compiled program's text."""
    return {found["name"]: readable_source(found["path"]) for found in _INSTRUCTION.finditer(program)}


def largest_kernels(folder: str | Path, modules: Mapping[str, str]) -> list[Kernel]:
    """Kernels of the newest trace in a folder, the longest first.

    Args:
        folder: that `jax.profiler.trace` wrote.
        modules: from `name_modules`.

    Raises:
        FileNotFoundError: the folder has no trace.
    """
    traces = sorted(Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not traces:
        raise FileNotFoundError(f"{folder} has no trace (*.xplane.pb)")
    return sum_kernels(_events(ProfileData.from_file(str(traces[-1]))), modules)


def sum_kernels(events: Iterator[tuple[str, str, float]], modules: Mapping[str, str]) -> list[Kernel]:
    """Sums events (name, instruction, seconds) by name and module, the longest first."""
    seconds, calls = defaultdict[tuple[str, str], float](float), defaultdict[tuple[str, str], int](int)
    for name, instruction, duration in events:
        key = name, modules.get(instruction, "")
        seconds[key] += duration
        calls[key] += 1
    kernels = [Kernel(*key, total, calls[key]) for key, total in seconds.items()]
    return sorted(kernels, key=lambda kernel: (-kernel.seconds, kernel.name, kernel.module))


def _events(data: Any) -> Iterator[tuple[str, str, float]]:
    """Events of the devices, else of the host's threads: name, instruction ("" if not known) and seconds."""
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:") and "CUSTOM" not in plane.name]
    lines = [line for plane in devices or planes for line in plane.lines]
    for line in [line for line in lines if line.name.startswith("Stream") or line.name == "XLA Ops"] or lines:
        on_stream = line.name.startswith("Stream")
        for event in line.events:
            instruction = next((str(value) for name, value in event.stats if name == "hlo_op"), "")
            if instruction or on_stream or line.name == "XLA Ops":
                yield event.name, instruction or event.name, event.duration_ns / 1e9
