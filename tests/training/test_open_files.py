"""Training on more shards than the limit of open files."""

import json
import os
import subprocess
import sys

import pytest

from ..data.tiny import CHUNK, write_dataset
from ..programs import ROOT, xla_flags


@pytest.mark.slow
def test_three_hundred_shards_train_with_eighty_files(launcher, tmp_path):
    """`ulimit -n 80` with 300 shards trains (scale, row 4)."""
    data = write_dataset(tmp_path / "data", [CHUNK] * 300, shards=300, splits=("train", "valid"))
    flags = [*launcher.flags, f"--config.data.train={data}", f"--config.data.valid={data}"]
    flags += ["--config.data.null_actions=keep", f"--config.workdir={tmp_path / 'run'}"]
    command = ["bash", "-c", 'ulimit -n 80; exec "$0" "$@"', sys.executable, "launch/train.py", *flags]
    environment = os.environ | {"XLA_FLAGS": xla_flags(devices=1)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])["step"] == 10
