"""A small IDM, trained for minutes, finds the ten of 40 ViZDoom recordings whose actions are displaced."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("vizdoom")

ROOT = Path(__file__).parents[3]
RECORDINGS, DISPLACED, SECONDS = 40, 10, 45
TRAINING, STEPS = 24, 160  # recordings, of SECONDS each; training steps of configs/idm.py:demo


def run(program, *flags, expected=0):
    flags = [f"--config{flag}" for flag in flags]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *program.split(), *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


def play(folder, episodes, held_out, seed):
    splits = [f".splits.train.episodes={episodes}", f".splits.train.seed={seed}", f".splits.valid.episodes={held_out}"]
    run("launch/record.py", "=configs/record.py:demo", f".out={folder}", f".seconds={SECONDS}", *splits)


def prepare(recordings, out):
    run("launch/prepare.py", f".recordings={recordings}", f".out={out}", ".height=16", ".width=16")


def displace(jsonl, late):
    """Delays every action by `late` frames; at the ends one is repeated."""
    lines = jsonl.read_text().splitlines()
    rows = np.clip(np.arange(len(lines)) - late, 0, len(lines) - 1)
    jsonl.write_text("\n".join(lines[row] for row in rows) + "\n")


@pytest.mark.slow  # ten minutes
def test_ten_displaced_recordings_of_forty_are_found(tmp_path):
    play(tmp_path / "known", TRAINING, 2, seed=0)
    play(tmp_path / "recordings", RECORDINGS, 0, seed=500_000)
    rng = np.random.default_rng(0)
    late = np.arange(1, DISPLACED + 1) * rng.choice([-1, 1], DISPLACED)
    paths = sorted((tmp_path / "recordings" / "train").glob("*.jsonl"))
    displaced = dict(zip(rng.choice(paths, DISPLACED, replace=False), late.tolist(), strict=True))
    for jsonl, frames in displaced.items():
        displace(jsonl, frames)
    prepare(tmp_path / "known", tmp_path / "training")
    prepare(tmp_path / "recordings", tmp_path / "dataset")
    data = [f".data.{split}={tmp_path / 'training'}" for split in ("train", "valid")]
    run("launch/train.py", "=configs/idm.py:demo", *data, f".workdir={tmp_path / 'idm'}", f".steps={STEPS}",
        ".report=False")  # fmt: skip
    output = run("launch/data.py validate", f".data={tmp_path / 'dataset'}", f".idm={tmp_path / 'idm'}", expected=1)

    findings = json.loads((tmp_path / "dataset.inspection" / "validate.json").read_text())["findings"]
    found = {Path(finding["where"]).name: finding for finding in findings}
    expected = {jsonl.stem: frames for jsonl, frames in displaced.items()}
    print(output, expected)
    assert expected.keys() <= {name for name, finding in found.items() if finding["kind"] == "displaced"}
    correct = [offset_of(found[name]["detail"]) == frames for name, frames in expected.items()]
    assert sum(correct) >= 8
    assert len(found.keys() - expected.keys()) <= 1


def offset_of(detail):
    frames, direction = re.search(r"(\d+) frames too (late|early)", detail).groups()
    return int(frames) if direction == "late" else -int(frames)
