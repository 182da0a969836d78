"""Measures this library on a GPU within ten minutes: speed, memory, kernels, compile times, precision, PyTorch, flags.

    python launch/gpu_measurements.py --out=FOLDER
    python launch/gpu_measurements.py --out=FOLDER --small

Each part is a command of its own with a time limit (`launch/benches/gpu_parts.py`), the most important first. After
each part, FOLDER/measurements.json and FOLDER/measurements.md hold what has been measured so far. A run that was
killed, or out of time after --minutes, is continued by the same command: parts that are done are skipped. A part whose
packages are missing is left out, and the table says so. --small tries all of it on a CPU with the smallest presets.
Needs JAX, Flax, Optax, jaxtyping and ml-collections, and for the goldens pytest, for the comparison PyTorch.
"""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags
from benches.gpu_parts import LAUNCH, Part, make_parts
from benches.gpu_table import markdown

from vpt_jax.system import command_line
from vpt_jax.system.atomic_files import write_text
from vpt_jax.system.paths import local_path

_NOT_RUN = "not run"  # status of a part
_OUT = flags.DEFINE_string("out", "runs/gpu-measurements", "Folder of the results.")
_MINUTES = flags.DEFINE_float("minutes", 9.5, "No part runs longer than this after the start.")
_SMALL = flags.DEFINE_bool("small", False, "On a CPU, with the smallest presets.")
_MISSING = re.compile(r"(?:ModuleNotFoundError: No module named|needs PyTorch \(No module named) '([\w.]+)'")
_KERNEL = re.compile(r"^kernel: +([\d.]+) ms +([\d.]+%) (.*) \| (.*)$", re.MULTILINE)
_TAIL = 2000  # characters of a failed part's output that are kept


def main() -> None:
    """Measures all parts that are not done, and writes the results after each; exits with 1 if one failed."""
    start_time, folder = time.monotonic(), local_path(_OUT.value, "--out").absolute()
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    parts = make_parts(folder, _SMALL.value)
    waiting = [part for part in parts if _result(folder, part)["status"] != "done"]
    # Those that have failed before come last: one that never ends in time must not keep the others from their turn.
    for part in sorted(waiting, key=lambda part: _result(folder, part)["status"] != _NOT_RUN):
        remaining = 60 * _MINUTES.value - (time.monotonic() - start_time)
        if remaining < 1:
            print(f"out of time after {_MINUTES.value:g} minutes: the same command measures the rest", flush=True)
            break
        result = measure(part, folder, min(part.limit, remaining))
        write_text(_file(folder, part), json.dumps(result, indent=1) + "\n")
        write_results(folder, parts)
        print(f"{part.name}: {result['status']}, {result['seconds']:.0f} s", flush=True)
    write_results(folder, parts)
    print(f"results: {folder / 'measurements.md'}")
    if any(_result(folder, part)["status"].startswith("failed") for part in parts):
        sys.exit(1)


def write_results(folder: Path, parts: list[Part]) -> None:
    """Writes `measurements.json` and `measurements.md`."""
    results = [_result(folder, part) for part in parts]
    write_text(folder / "measurements.json", json.dumps(results, indent=1) + "\n")
    write_text(folder / "measurements.md", markdown(results, sum(result["seconds"] for result in results) / 60))


def _file(folder: Path, part: Part) -> Path:
    return folder / "parts" / f"{part.name}.json"


def _result(folder: Path, part: Part) -> dict[str, Any]:
    """Stored result of a part, or one that says that it has not run, or not with its present command."""
    try:
        stored = json.loads(_file(folder, part).read_text())
        if stored["command"] == list(part.command) and stored["flag"] == part.flag:
            return stored
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return _new_result(part, _NOT_RUN, 0.0)


def _new_result(part: Part, status: str, seconds: float, **measured: Any) -> dict[str, Any]:
    result = {"name": part.name, "kind": part.kind, "command": list(part.command), "flag": part.flag}
    result |= {"status": status, "seconds": seconds, "machine": "", "rows": [], "kernels": [], "summary": ""}
    return result | measured


def measure(part: Part, folder: Path, limit: float) -> dict[str, Any]:
    """Runs a part for at most `limit` seconds, and returns its result as JSON values."""
    if missing := [name for name in part.needs if importlib.util.find_spec(name) is None]:
        return _new_result(part, f"needs the package {missing[0]}", 0.0)
    rows_file = folder / "parts" / f"{part.name}.rows.json"
    rows_file.unlink(missing_ok=True)
    command = [*part.command, f"--json={rows_file}"] if part.kind != "goldens" else list(part.command)
    start_time = time.monotonic()
    status, output = run_limited(command, _environment(part, folder), limit)
    seconds = time.monotonic() - start_time
    if status is None:
        return _new_result(part, f"stopped after {limit:.0f} s", seconds, summary=output[-_TAIL:])
    if status != 0:
        found = _MISSING.search(output)
        why = f"needs the package {found[1]}" if found else f"failed with status {status}"
        return _new_result(part, why, seconds, summary=output[-_TAIL:])
    if part.kind == "goldens":
        return _new_result(part, "done", seconds, summary=output.strip().splitlines()[-1])
    return _new_result(part, "done", seconds, **json.loads(rows_file.read_text()), kernels=read_kernels(output))


def read_kernels(output: str) -> list[dict[str, str]]:
    """Rows of the kernels that a train step printed with --trace."""
    return [
        dict(zip(("ms a step", "share", "kernel", "module"), found, strict=True)) for found in _KERNEL.findall(output)
    ]


def _environment(part: Part, folder: Path) -> Mapping[str, str]:
    cache = {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    path = os.pathsep.join([str(LAUNCH.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    xla_flags = " ".join(filter(None, [os.environ.get("XLA_FLAGS"), part.flag]))
    platform = {"JAX_PLATFORMS": "cpu" if _SMALL.value else "cuda"}  # JAX would fall back to a CPU, with a warning
    return os.environ | cache | part.environment | platform | {"PYTHONPATH": path, "XLA_FLAGS": xla_flags}


def run_limited(command: list[str], environment: Mapping[str, str], limit: float) -> tuple[int | None, str]:
    """Exit status and output of a command in the repository's folder; status None: it took longer than `limit` seconds.

    It is a process group of its own, which is killed as a whole.
    """
    process = subprocess.Popen(  # noqa: S603 - programs of this repository
        command, cwd=LAUNCH.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, output


if __name__ == "__main__":
    command_line.run_plain(main)
