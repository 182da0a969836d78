"""The parts of `launch/gpu_measurements.py`: a command each, which runs in a process of its own with a time limit.

No JAX is imported here: a parent process that uses the GPU would leave no memory to the parts.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from vpt_jax.system.xla_flags import flags_of

LAUNCH = Path(__file__).parents[1]
_SMALL_PRESETS = {"1x": "nano", "2x": "nano", "3x": "nano", "idm:paper": "idm:nano"}
_GOLDENS = ("tests/models/test_policy.py", "tests/models/test_idm.py")


class Part(NamedTuple):
    """One measurement."""

    name: str  # of its file
    kind: str  # section of the table
    command: tuple[str, ...]
    limit: float  # seconds
    environment: Mapping[str, str] = {}
    needs: tuple[str, ...] = ()  # packages that the image may lack
    flag: str = ""  # of `XLA_FLAGS`


class Size(NamedTuple):
    """Preset and shape of a training step to measure: `rows` windows of 128 frames."""

    preset: str
    rows: int
    limit: float


# As a microbatch of configs/foundation.py:500m,gpu and configs/idm.py:paper,gpu; 1x and 2x as in docs/speed.md.
ONE, TWO, THREE, IDM = Size("1x", 8, 120), Size("2x", 8, 120), Size("3x", 4, 200), Size("idm:paper", 1, 150)


def make_parts(folder: Path, small: bool) -> list[Part]:
    """All parts, the most important first: what is left out when the time is up comes last.

    Args:
        folder: of the results, for the compilation cache and the trace.
        small: on a CPU, with the smallest presets; parts that would then be the same are left out.
    """
    parts, commands = list[Part](), set[tuple[str, ...]]()
    for part in _all_parts(folder, small):
        untraced = (option for option in part.command if not option.startswith("--trace"))
        identity = (*untraced, part.flag, "again" if part.name.endswith("again") else "")
        if identity not in commands:
            parts.append(part)
        commands.add(identity)
    return parts


def _all_parts(folder: Path, small: bool) -> Iterator[Part]:
    yield _bench("ceiling", "ceiling", TWO, 60, small)
    for size in (ONE, TWO, THREE, IDM):
        yield _train_step(size, small, trace=folder / "traces" / _file_name(size))
    yield _bench("temporal_conv", "temporal_conv", IDM, 60, small)
    yield _train_step(ONE, small, suffix="-again")  # from the compilation cache
    yield _train_step(THREE, small, suffix="-again")
    for size in (TWO,) if small else (TWO, THREE, IDM, ONE):
        yield _train_step(size, small, "stacks")
        yield _train_step(size, small, "convolutions")
    yield _goldens(small)
    yield _bench("precision", "precision", Size("1x", 4, 0), 100, small)
    yield _label(small)
    against = ("gradient", ONE), ("act", TWO._replace(rows=1)), ("forward", ONE)
    for bench, size in against[:1] if small else against:
        part = _bench(bench, f"torch-{bench}", size, 150, small, "--against=torch")
        yield part._replace(kind="torch", needs=("torch",))
    flags = flags_of("cpu" if small else "cuda")
    for i, row in enumerate(flags[:1] if small else flags):
        yield _train_step(ONE, small, suffix=f"-flag-{i}")._replace(kind="flags", flag=row.flag, limit=90)


def _train_step(size: Size, small: bool, remat: str = "none", trace: Path | None = None, suffix: str = "") -> Part:
    options = [f"--remat={remat}", *([f"--trace={trace}"] if trace else [])]
    name = f"train_step-{_file_name(size)}-{remat}{suffix}"
    return _bench("train_step", name, size, size.limit, small, *options)


def _file_name(size: Size) -> str:
    return size.preset.replace(":", "-")


def _bench(bench: str, name: str, size: Size, limit: float, small: bool, *options: str) -> Part:
    preset, shape = size.preset, [f"--batch={size.rows}", "--length=128", "--dtype=bfloat16", "--seconds=2"]
    if small:
        preset, shape = _SMALL_PRESETS[preset], ["--batch=2", "--length=4", "--size=32", "--seconds=0.1"]
    command = sys.executable, str(LAUNCH / "bench.py"), bench, f"--preset={preset}", *shape, *options
    return Part(name, bench, command, limit)


def _label(small: bool) -> Part:
    shape = (
        ["--idm=nano", "--size=16", "--seconds=0.1"] if small else ["--idm=paper", "--dtype=bfloat16", "--seconds=3"]
    )
    return Part("label", "label", (sys.executable, str(LAUNCH / "bench.py"), "label", *shape), 120, needs=("av",))


def _goldens(small: bool) -> Part:
    """Tensors of the reference code, in float32. Without tests/conftest.py, which needs more packages."""
    tests = ["tests/models/test_impala.py"] if small else list(_GOLDENS)
    options = ["--noconftest", "-p", "no:cacheprovider", "-m", "not slow"]
    environment = {"JAX_DEFAULT_MATMUL_PRECISION": "highest"}
    command = sys.executable, "-m", "pytest", *options, *tests
    return Part("goldens", "goldens", command, 120, environment, needs=("pytest",))
