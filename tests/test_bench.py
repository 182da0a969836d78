"""Each benchmark runs as a user starts it and prints its table."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SMALL = ["--size=32", "--batch=2", "--length=4", "--workers=1", "--seconds=0.2"]


@pytest.mark.parametrize(
    ("what", "columns"),
    [
        ("loader", ["workers", "frames/s", "ms/step"]),
        ("act", ["preset", "frames/s", "ms/act", "peak memory MB"]),
        pytest.param("decode", ["codec", "bytes/frame", "decoded/s", "PSNR dB"], marks=pytest.mark.slow),
        pytest.param("train_step", ["preset", "frames/s", "ms/step", "peak memory MB"], marks=pytest.mark.slow),
        pytest.param("label", ["mode", "frames/s", "against exact"], marks=pytest.mark.slow),
    ],
)
def test_bench_prints_machine_and_table(dataset_dir, what, columns):
    data = [f"--data={dataset_dir}", f"--recordings={dataset_dir.parent / 'recordings' / 'train'}"]
    command = [sys.executable, "launch/bench.py", what, *data, *SMALL]
    machine, header, *rows = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert "jax" in machine
    assert all(column in header for column in columns)
    assert rows


def test_bench_tells_what_it_can_measure():
    run = subprocess.run([sys.executable, "launch/bench.py", "speed"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode
    assert "{loader,decode,train_step,act,label}" in run.stdout + run.stderr
