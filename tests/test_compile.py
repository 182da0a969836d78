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
    ended = compile_step(*SMALL, "--json", "--largest=100000", "--config.mesh.data=2", "--config.mesh.fsdp=2")
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1}
    assert result["chips"] == 4
    assert result["memory_total"] == sum(result["memory"].values()) < result["memory_of_chip"]
    assert min(result["seconds"].values()) > 0
    assert result["collectives"]
    assert result["seconds"][result["bound"]] == max(result["seconds"].values())
    estimated = result["estimate"]
    assert estimated["seconds"] == estimated["cycles"] / 1.5e9 > result["seconds"]["arithmetic"]
    assert 0 < estimated["frames_per_second"] < result["frames_per_second_at_most"]
    assert 0 < estimated["share_of_peak"] < 1
    assert estimated["loops_of_unknown_length"] == 0
    cycles = [operation["cycles"] for operation in estimated["largest"]]
    assert sum(cycles) == estimated["cycles"]
    assert cycles == sorted(cycles, reverse=True)
    assert any("encoder/stack_0" in operation["source"] for operation in estimated["largest"])


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason="needs the tpu extra")
def test_gradient_accumulation_is_a_loop_that_the_estimate_multiplies(tmp_path):
    """Four microbatches of the size of one batch: less than four times the cycles, since the optimizer runs once."""
    results = []
    for batch, parts in ((4, 1), (16, 4)):
        ended = compile_step(
            *SMALL, "--json", f"--hlo={tmp_path / 'program.txt'}", f"--config.data.batch={batch}",
            f"--config.data.grad_accum_steps={parts}",
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        results.append(json.loads(ended.stdout.splitlines()[-1]))
    once, looped = (result["estimate"] for result in results)
    assert looped["loops_of_unknown_length"] == 0
    assert 2 < looped["cycles"] / once["cycles"] < 4.5
    assert "ENTRY" in (tmp_path / "program.txt").read_text()
    assert "128, the lanes" in results[0]["warnings"][0]  # 32 frames a chip
