"""Choice of the rematerialization (`config.model.remat=auto`) by the memory that the compiled step needs.

The choices of `models.remat.REMAT` are compiled in their order, from the one with the most memory and the least
arithmetic on, until one fits: so a run on a device with enough memory compiles one program. The program that was chosen
is the one that trains: JAX keeps it, and so does the persistent compilation cache, for the next start. The choice
depends on the program and on the device's total memory, not on what is in use, so that a run makes the same one at
every start; with several hosts, the host with the least memory decides for all.
"""

from collections.abc import Callable, Mapping
from math import ceil
from typing import Any, NamedTuple, TypeVar

import jax
from jax.sharding import Mesh
from jax.stages import Lowered
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.models.remat import AUTO, NONE, REMAT
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.roofline import CHIPS, device_bytes, program_bytes

SPARE = 0.1  # share of a device's memory that stays free: for evaluation, fragmentation and the runtime
MIB = 2**20
_TOO_LARGE = 2**31 - 1  # MiB: the compiler itself found that the program does not fit
_FAILED = -1  # MiB: the compiler failed otherwise
_Setup = TypeVar("_Setup")


class StepToFit(NamedTuple):
    """Train step whose memory is to be measured."""

    lowered: Lowered
    resident: Any  # shapes, with their shardings, of what else is in memory during the step


def check_remat(config: ConfigDict) -> None:
    """Raises a `ConfigError` unless `config.model.remat` is a choice."""
    if (name := config.model.remat) not in (*REMAT, AUTO):
        raise ConfigError(f"config.model.remat is {name!r}; choose one of {', '.join((*REMAT, AUTO))}")


def with_remat(config: ConfigDict, remat: str) -> ConfigDict:
    """Copy of a training config with another `config.model.remat`."""
    copy = config.copy_and_resolve_references()
    copy.model.remat = remat
    return copy


def first_that_fits(
    build: Callable[[str], _Setup], step: Callable[[_Setup], StepToFit], mesh: Mesh, limit: int | None
) -> _Setup:
    """Setup of the first choice of `REMAT` whose step fits into `limit`, or of the last; logs the memory of each tried.

    A collective operation: all hosts call it, and choose the same.

    Args:
        build: makes the setup of a choice.
        step: of a setup, as it will be called.
        mesh: on which the step runs.
        limit: bytes of a device, from `memory_limit`; None: not known, and nothing is computed again.
    """
    if limit is None:
        parallel.log("config.model.remat=auto: none, since the memory of these devices is not known")
        return build(NONE)
    needed = dict[str, int]()
    for remat in REMAT:
        setup = build(remat)
        own, failure = _needed_mib(step(setup), mesh)
        of_hosts = parallel.gather_from_hosts(own)
        if _FAILED in of_hosts:  # all hosts end: none is left waiting for the others
            raise failure or ConfigError(f"another host failed to compile the step with config.model.remat={remat}")
        needed[remat] = max(of_hosts)
        if fits := needed[remat] * MIB <= (1 - SPARE) * limit:
            break
    parallel.log(_describe(needed, limit, fits))
    return setup


def _needed_mib(step: StepToFit, mesh: Mesh) -> tuple[int, Exception | None]:
    """MiB that a step needs on each device, with what is in memory besides; `_FAILED` with the compiler's error."""
    with jax.set_mesh(mesh):
        try:
            compiled = step.lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            return (_TOO_LARGE, None) if "RESOURCE_EXHAUSTED" in str(error) else (_FAILED, error)
    return ceil((program_bytes(compiled) + device_bytes(step.resident)) / MIB), None


def _describe(needed: Mapping[str, int], limit: int, fits: bool) -> str:
    sizes = (
        f"{remat} needs " + ("more than the compiler can place" if mib == _TOO_LARGE else f"{mib / 1024:.2f} GiB")
        for remat, mib in needed.items()
    )
    chosen, verdict = list(needed)[-1], "" if fits else ", which may not fit: raise config.data.grad_accum_steps"
    return (
        f"config.model.remat=auto: {chosen}{verdict} ({', '.join(sizes)}; a device has {limit / 2**30:.2f} GiB, of "
        f"which {SPARE:.0%} stay free)"
    )


def memory_limit(mesh: Mesh) -> int | None:
    """Bytes that a program may use on the device with the least, over all hosts; None: not known, as on CPUs.

    It is what the runtime has reserved (on GPUs `XLA_PYTHON_CLIENT_MEM_FRACTION`, by default 75%), or for devices that
    are not attached, the data sheet's.
    """
    own = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    mib = [_device_limit(device) // MIB for device in own]
    least = min(parallel.gather_from_hosts(min(mib, default=_TOO_LARGE)))
    return None if least == 0 else least * MIB


def _device_limit(device: jax.Device) -> int:
    """Bytes that a program may use on a device; 0: not known."""
    try:
        stats = device.memory_stats() or {}
    except jax.errors.JaxRuntimeError:  # the device is not attached: the target of an ahead-of-time compilation
        stats = {}
    if limit := stats.get("bytes_limit"):
        return int(limit)
    chip = CHIPS.get(device.device_kind)
    return int(chip.memory) if chip else 0
