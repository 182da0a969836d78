"""launch/compile.py as a user starts it. Tests that need a TPU compiler are slow, and run if libtpu is installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from launch.compile import explain_failure

ROOT = Path(__file__).parents[1]
SMALL = ["--config=configs/foundation.py:demo", "--size=16", "--topology=v5e:2x2"]
HAS_LIBTPU = importlib.util.find_spec("libtpu") is not None


def compile_step(*flags):
    command = [sys.executable, "launch/compile.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_memory_errors_of_the_compiler_are_explained_in_one_line():
    error = RuntimeError(
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 27.32G of "
        "15.75G hbm. Exceeded hbm capacity by 11.57G.\n\nTotal hbm usage >= 27.57G:\n    reserved        258.00M"
    )
    explained = explain_failure(error)
    assert "does not fit" in explained
    assert "Used 27.32G of 15.75G hbm. Exceeded hbm capacity by 11.57G." in explained
    assert "\n" not in explained
    assert explain_failure(RuntimeError("INTERNAL: no\nmore")) == "the compiler failed: INTERNAL: no"


@pytest.mark.parametrize("topology", ["v9:2x2", "v5e"])
def test_an_unknown_topology_is_refused(topology):
    ended = compile_step(*SMALL[:2], f"--topology={topology}")
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"error: no topology '{topology}'")
    assert "names are like v5e:16x16" in last


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs the tpu extra")
def test_a_step_for_tpus_is_compiled_without_them():
    ended = compile_step(*SMALL, "--json", "--config.mesh.data=2", "--config.mesh.fsdp=2")
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert result["chips"] == 4
    assert result["memory_total"] == sum(result["memory"].values()) < result["memory_of_chip"]
    assert min(result["seconds"].values()) > 0
    assert result["collectives"]
    assert result["seconds"][result["bound"]] == max(result["seconds"].values())
