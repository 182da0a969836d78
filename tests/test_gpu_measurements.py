"""The script that measures on a GPU: its parts, limits and table; all of it in small on a CPU (slow)."""

import json
import os
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from benches import gpu_parts, gpu_table, trace

from launch import gpu_measurements
from tests import programs
from tests.programs import ROOT
from vpt_jax.system.xla_flags import flags_of

PROGRAM = """
  %fusion.3 = bf16[8]{0} fusion(%a, %b), kind=kLoop, metadata={op_name="jit(train_step)/transpose(jvp(Policy))/encoder/stack_0/block_0/conv_1/conv/conv_general_dilated"}
  ROOT %dot.2 = f32[8]{0} dot(%a), metadata={op_name="jit(train_step)/jvp(Policy)/transformer/block_1/mlp_in/dense/dot_general" source_file="x.py"}
  %copy.1 = f32[8]{0} copy(%a)
"""  # noqa: E501


def test_instructions_of_a_program_have_the_modules_they_come_from():
    assert trace.name_modules(PROGRAM) == {
        "fusion.3": "encoder/stack_0/block_0/conv_1/conv: conv_general_dilated (backward)",
        "dot.2": "transformer/block_1/mlp_in/dense: dot_general",
    }


def test_kernels_are_summed_by_name_and_module_the_longest_first():
    events = [("gemm", "dot.2", 1.0), ("copy", "copy.1", 2.5), ("gemm", "dot.2", 2.0), ("gemm", "fusion.3", 0.5)]
    kernels = trace.sum_kernels(iter(events), trace.name_modules(PROGRAM))
    assert [(kernel.name, kernel.seconds, kernel.calls) for kernel in kernels] == [
        ("gemm", 3.0, 2), ("copy", 2.5, 1), ("gemm", 0.5, 1),
    ]  # fmt: skip
    assert [kernel.module for kernel in kernels] == [
        "transformer/block_1/mlp_in/dense: dot_general", "", trace.name_modules(PROGRAM)["fusion.3"],
    ]  # fmt: skip


def test_a_real_trace_has_its_largest_product(tmp_path):
    with jax.named_scope("outer"):
        step = jax.jit(lambda x: jnp.sin(x @ x) + 1)
    x = jnp.ones((512, 512))
    compiled = step.lower(x).compile()
    jax.block_until_ready(compiled(x))
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            jax.block_until_ready(compiled(x))
    kernels = trace.largest_kernels(tmp_path, trace.name_modules(compiled.as_text()))
    assert all(kernel.seconds >= 0 for kernel in kernels)
    assert max(kernels, key=lambda kernel: kernel.seconds) == kernels[0]
    assert any(kernel.calls >= 3 and "dot" in kernel.name + kernel.module for kernel in kernels)


def test_a_folder_without_a_trace_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no trace"):
        trace.largest_kernels(tmp_path, {})


def test_each_part_is_one_command_with_a_limit(tmp_path):
    parts = gpu_parts.make_parts(tmp_path, small=False)
    assert len({part.name for part in parts}) == len(parts)
    assert all(0 < part.limit <= 200 for part in parts)
    steps = {tuple(part.command[2:]) for part in parts if part.kind == "train_step"}
    for preset in ("1x", "2x", "3x", "idm:paper"):
        for remat in ("none", "convolutions", "stacks"):
            assert any(f"--preset={preset}" in step and f"--remat={remat}" in step for step in steps)
    assert [part.flag for part in parts if part.flag] == [row.flag for row in flags_of("cuda")]
    assert {"goldens", "precision", "label", "temporal_conv", "torch", "ceiling"} < {part.kind for part in parts}


def test_small_parts_are_a_few_of_the_same_kinds(tmp_path):
    parts, small = (gpu_parts.make_parts(tmp_path, small) for small in (False, True))
    assert {part.kind for part in small} == {part.kind for part in parts}
    assert len(small) < len(parts) / 2


def step_result(name, preset, frames, tflops, compile_seconds, kind="train_step", flag="", kernels=()):
    row = {
        "preset": preset, "dtype": "bfloat16", "remat": "none", "rows": "8", "length": "128", "frames": "128x128",
        "frames/s": frames, "ms": "5.0", "TFLOP/s": tflops, "of the peak": "20.0%", "compile s": compile_seconds,
        "peak memory MB": "18,000", "program MB": "17,000",
    }  # fmt: skip
    return {"name": name, "kind": kind, "command": ["python", "bench.py"], "flag": flag, "status": "done",
            "seconds": 60.0, "machine": "1 x GPU", "rows": [row], "kernels": list(kernels), "summary": ""}  # fmt: skip


RESULTS = [
    step_result("ceiling", "", "", "", "", kind="ceiling") | {"rows": [{"TFLOP/s": "300.0"}, {"TFLOP/s": "650.0"}]},
    step_result("train_step-1x-none", "1x", "10,000.0", "195.0", "58.0",
                kernels=[{"ms a step": "1.5", "share": "30%", "kernel": "a|b", "module": "encoder"}]),
    step_result("train_step-1x-none-again", "1x", "10,000.0", "195.0", "4.0"),
    step_result("train_step-1x-none-flag-0", "1x", "11,000.0", "200.0", "30.0", kind="flags", flag="--xla_a=1"),
    step_result("label", "", "", "", "", kind="label") | {"status": "stopped after 120 s"},
]  # fmt: skip


def test_the_table_has_shares_compile_times_flags_and_what_is_missing():
    text = gpu_table.markdown(RESULTS, 5.0)
    lines = text.splitlines()
    [row] = [line for line in lines if line.startswith("| 1x | none")]
    assert "30.0%" in row  # 195 of 650
    assert row.endswith("| 58.0 | 4.0 |")
    assert "| `--xla_a=1` | 1x | 1.10 | 30.0 | 58.0 |" in lines
    assert "| 1.5 | 30% | a/b | encoder |" in lines
    assert "- `label`: stopped after 120 s" in lines
    assert "- `train_step-1x-none-flag-0` (60 s): `XLA_FLAGS=--xla_a=1 python bench.py`" in lines
    assert all(len(rows) == 1 for rows in (gpu_table.flag_rows(RESULTS), gpu_table.step_rows(RESULTS[1:3], 0.0)))
    assert gpu_table.step_rows(RESULTS[1:3], 0.0)[0]["of the ceiling"] == ""  # it was not measured


def test_the_table_of_nothing_says_so():
    assert "no part has been measured yet" in gpu_table.markdown([], 0.0)


def test_a_command_that_takes_too_long_is_killed_with_its_children():
    child = "import subprocess, sys; print('started', flush=True); subprocess.run([sys.executable, '-c', 'while 1: 1'])"
    start_time = time.monotonic()
    status, output = gpu_measurements.run_limited([sys.executable, "-c", child], os.environ, 2.0)
    assert status is None
    assert output == "started\n"
    assert time.monotonic() - start_time < 20


@pytest.mark.parametrize(
    ("code", "status"),
    [("import no_such_package", "needs the package no_such_package"), ("import sys; sys.exit(3)", "failed with"),
     ("print('1 passed in 0.1s')", "done")],
)  # fmt: skip
def test_a_part_says_how_it_ended(tmp_path, code, status):
    (tmp_path / "parts").mkdir()
    part = gpu_parts.Part("part", "goldens", (sys.executable, "-c", code), 60)
    result = measure(part, tmp_path)
    assert result["status"].startswith(status)
    if status == "done":
        assert result["summary"] == "1 passed in 0.1s"


def test_a_part_without_its_package_is_left_out(tmp_path):
    part = gpu_parts.Part("part", "torch", ("false",), 60, needs=("no_such_package",))
    assert measure(part, tmp_path)["status"] == "needs the package no_such_package"


def measure(part, folder):
    with_flags(["--small"])
    return gpu_measurements.measure(part, folder, part.limit)


def with_flags(arguments):
    gpu_measurements.flags.FLAGS.unparse_flags()
    gpu_measurements.flags.FLAGS(["gpu_measurements", *arguments])


@pytest.mark.slow
def test_all_parts_run_in_small_and_are_skipped_the_second_time(tmp_path):
    flags = ["--small", f"--out={tmp_path}"]
    programs.run("gpu_measurements", *flags)
    results = json.loads((tmp_path / "measurements.json").read_text())
    assert {result["status"] for result in results} <= {"done", "needs the package torch"}
    text = (tmp_path / "measurements.md").read_text()
    for title in ("Training steps", "Largest kernels", "XLA flags", "Goldens in float32", "Commands"):
        assert f"## {title}" in text
    kernels = next(result["kernels"] for result in results if result["name"] == "train_step-1x-none")
    assert len(kernels) == 10
    assert any("encoder" in kernel["module"] for kernel in kernels)
    output = programs.run("gpu_measurements", *flags)
    assert "done" not in output.replace(str(tmp_path), "")
    assert Path(tmp_path, "cache").is_dir()


def test_the_time_limit_stops_it_with_what_was_measured(tmp_path):
    output = programs.run("gpu_measurements", "--small", f"--out={tmp_path}", "--minutes=0")
    assert "out of time after 0 minutes" in output
    assert "`ceiling`: not run" in (tmp_path / "measurements.md").read_text()
    assert ROOT in gpu_parts.LAUNCH.parents
