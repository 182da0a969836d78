"""Benchmarks of starting: compiling, and seconds to the first training step, with and without the compilation cache."""

import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
from absl import flags
from benches import data
from benches.measuring import BATCH, DTYPE, LENGTH, SIZE, Row, peak_memory, timed
from ml_collections import ConfigDict

from vpt_jax.actions.minerl import MINERL
from vpt_jax.system.compilation_cache import FIELD, use_compilation_cache
from vpt_jax.training.compile_times import measured_compilation
from vpt_jax.training.setup import batch_shapes, make_mesh, make_setup
from vpt_jax.training.stages import head_statistics

_CONFIG = flags.DEFINE_string("train", "foundation:demo", "Config of the run, of those in configs/, with its variant.")
_SETTINGS = flags.DEFINE_list("set", [], "Further settings of `start`: FIELD=VALUE,...")
_STARTS = flags.DEFINE_integer("starts", 3, "Starts of each kind.")

ERRORS = (*data.ERRORS, RuntimeError)
ROOT = Path(__file__).parents[2]
# The first line of steps: "step 4/6  loss 5.474  after 8 s, compiled in 1.9 s (from the cache)".
_FIRST_STEP = re.compile(r"step \d+/\d+ .* compiled in ([\d.]+) s \((.*)\)")


def compile_step() -> list[Row]:
    """Seconds to trace and to compile the step of a run on this machine's devices, and to read it from the cache."""
    name, _, variant = _CONFIG.value.partition(":")
    config = data.config_of(name, *([variant] if variant else []))
    config.data.batch, config.data.length, config.data.grad_accum_steps = BATCH.value, LENGTH.value, 1
    config.model.dtype, mesh, shape = DTYPE.value, make_mesh(config), (SIZE.value, SIZE.value, 3)
    rows = []
    with TemporaryDirectory() as folder:
        use_compilation_cache(ConfigDict({FIELD: folder}))
        for source in ("compiler", "cache"):
            jax.clear_caches()
            with jax.set_mesh(mesh), measured_compilation() as times:
                marginal = head_statistics(config).marginal.uniform(MINERL)
                setup = make_setup(config, mesh, shape, marginal, steps=1000)
                lowered, tracing = timed(partial(setup.step.lower, setup.shapes, batch_shapes(config, mesh, shape)))
                lowered.compile()
            rows.append(
                {
                    "run": _CONFIG.value,
                    "from": source,
                    "tracing": f"{tracing:.1f} s",
                    "compiling": f"{times.seconds:.1f} s",
                    "peak memory MB": f"{peak_memory() / 1e6:,.0f}",
                }
            )
    return rows


def start() -> list[Row]:
    """Starts a run again and again, in turns without a cache and with it; all but the first resume a checkpoint."""
    dataset = data.dataset_folder()
    with TemporaryDirectory() as folder:
        workdir, cache = Path(folder, "run"), f"{folder}/compiled"
        again = [("again, no cache", ""), ("again, cache", cache)] * _STARTS.value
        starts = [("first, empty cache", cache), *again]
        rows = [
            {"start": kind} | _run(workdir, dataset, setting, step) for step, (kind, setting) in enumerate(starts, 1)
        ]
    return sorted(rows, key=lambda row: row["start"], reverse=True)


def _run(workdir: Path, dataset: str, cache: str, number: int) -> Row:
    """Trains two steps; returns the seconds from the start of the process to the first of them.

    Args:
        workdir: of the run, which resumes.
        dataset: folder of its data.
        cache: folder of the compilation cache; "": none.
        number: of the start, from 1.
    """
    config, _, variant = _CONFIG.value.partition(":")
    fields = {
        "data.train": dataset, "data.valid": dataset, "workdir": workdir, "compilation_cache": cache,
        "steps": 2 * number, "save_every": 1, "evaluate_every": 1_000_000, "optimizer.warmup_steps": 0, "report": False,
    }  # fmt: skip
    settings = [*(f"{name}={value}" for name, value in fields.items()), *_SETTINGS.value]
    command = [sys.executable, "launch/train.py", f"--config=configs/{config}.py" + (f":{variant}" if variant else ""),
               *(f"--config.{setting}" for setting in settings)]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    begun = time.monotonic()
    with subprocess.Popen(  # noqa: S603 - a program of this repository
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        output, found, seconds, processor = "", None, 0.0, 0.0
        for line in process.stdout or ():
            output += line
            if found is None and (found := _FIRST_STEP.search(line)):
                seconds, processor = time.monotonic() - begun, _processor_seconds(process.pid)
    if found is None:
        raise RuntimeError(f"the run has not reached its first step:\n{output[-2000:]}")
    return {"run": _CONFIG.value, "to the first step": f"{seconds:.1f} s", "processor time": f"{processor:.1f} s",
            "compiling": f"{found[1]} s ({found[2]})"}  # fmt: skip


def _processor_seconds(process: int) -> float:
    """Processor time that a running process has used; NaN on other systems than Linux."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
