"""Measuring for all benchmarks: runs per second, peak memory, description of the machine, tables."""

import importlib.metadata
import json
import platform
import resource
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
from absl import flags
from benches.gpu_table import markdown_table

from vpt_jax.system.cores import available_cores

SIZE = flags.DEFINE_integer("size", 128, "Height and width of frames.")
BATCH = flags.DEFINE_integer("batch", 8, "Rows of a batch.")
LENGTH = flags.DEFINE_integer("length", 64, "Frames of a window.")
DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Type in which the model computes.")
SECONDS = flags.DEFINE_float("seconds", 10.0, "Seconds to measure for, after a warm-up.")
JSON = flags.DEFINE_string("json", "", "File for the machine and the rows, in JSON; empty: none.")
_MARKDOWN = flags.DEFINE_bool("markdown", False, "Print the table in Markdown.")

Row = dict[str, str]


def alternate(runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Runs per second of each function, measured in turns, under the same machine load; waits for each result."""
    seconds = dict.fromkeys(runs, 0.0)
    counts = dict.fromkeys(runs, 0)
    for run in runs.values():
        jax.block_until_ready(run())
    while min(seconds.values()) < SECONDS.value:
        for name, run in runs.items():
            _, duration = timed(partial(finish, run))
            seconds[name], counts[name] = seconds[name] + duration, counts[name] + 1
    return {name: counts[name] / seconds[name] for name in runs}


def repeat(run: Callable[[], Any]) -> float:
    """Runs per second of one function; waits for each result."""
    return alternate({"run": run})["run"]


def finish(run: Callable[..., Any], *inputs: Any) -> Any:
    """Runs a function and waits for its result (`block_until_ready`)."""
    return jax.block_until_ready(run(*inputs))


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Result of a function, and the seconds it took."""
    start = time.monotonic()
    return run(), time.monotonic() - start


def peak_memory() -> int:
    """Peak memory in bytes: of the accelerator if it reports that, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine() -> str:
    """Description of the machine and the versions of the libraries."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "numpy"))
    return (f"{jax.device_count()} x {jax.devices()[0].device_kind}, {available_cores()} cores ({platform.machine()}), "
            f"Python {platform.python_version()}, {versions}")  # fmt: skip


def write_json(rows: list[Row]) -> None:
    """Writes the machine and the rows to the file of --json."""
    Path(JSON.value).write_text(json.dumps({"machine": machine(), "rows": rows}, indent=1) + "\n")


def print_table(rows: list[Row]) -> None:
    """Prints rows under the columns of the first, right-aligned or, with --markdown, as a table in Markdown."""
    if _MARKDOWN.value:
        print(markdown_table(rows))
        return
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    for row in [{name: name for name in widths}, *rows]:
        print("  ".join(row[name].rjust(width) for name, width in widths.items()))
