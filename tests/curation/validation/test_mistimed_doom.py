"""A small IDM, trained for minutes, finds the 25 of 40 ViZDoom recordings whose actions and frames do not match.

Ten are displaced, ten drift, and of five some frames are dropped or repeated. `pytest -m slow -s` prints the findings.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .mistimed import Fault, damage, findings_of, is_found, timings_of

pytest.importorskip("vizdoom")

ROOT = Path(__file__).parents[3]
TRAINING, STEPS = 24, 160  # recordings, of 45 s each; training steps of configs/idm.py:demo
RECORDINGS, SECONDS = 40, 120  # many end earlier
DRIFTS = (1e-3, -1e-3, 1.2e-3, -1.5e-3, 2e-3, -3e-3, 5e-3, -7e-3, 1e-2, -2e-2)  # of the ten longest


def run(program, *flags, expected=0):
    flags = [f"--config{flag}" for flag in flags]
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, *program.split(), *flags]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == expected, done.stdout + done.stderr
    return done.stdout


def play(folder, episodes, held_out, seed, seconds):
    splits = [f".splits.train.episodes={episodes}", f".splits.train.seed={seed}", f".splits.valid.episodes={held_out}"]
    run("launch/record.py", "=configs/record.py:demo", f".out={folder}", f".seconds={seconds}", *splits)


def prepare(recordings, out):
    run("launch/prepare.py", f".recordings={recordings}", f".out={out}", ".height=16", ".width=16")


def choose_faults(recordings):
    """A fault for 25 recordings, by path: all sizes differ."""
    rng = np.random.default_rng(0)
    steps = {jsonl.with_suffix(""): len(jsonl.read_text().splitlines()) for jsonl in recordings.glob("*.jsonl")}
    longest = sorted(steps, key=lambda recording: (-steps[recording], recording))
    others = [longest[i] for i in 10 + rng.permutation(len(longest) - 10)]
    faults = {recording: Fault("drift", rate) for recording, rate in zip(longest, DRIFTS, strict=False)}
    sizes = np.arange(1, 11) * (-1) ** np.arange(10)
    faults |= {recording: Fault("displaced", int(size)) for recording, size in zip(others, sizes, strict=False)}
    long_enough = [recording for recording in others[10:] if steps[recording] >= 400]
    for recording, count in zip(long_enough, (1, 2, -3, 4, 8), strict=False):
        faults[recording] = Fault("dropped", count, int(rng.integers(150, steps[recording] - 150)))
    assert len(faults) == 25
    return faults


@pytest.mark.slow  # a quarter of an hour
def test_faults_of_25_recordings_of_40_are_found(tmp_path):
    play(tmp_path / "known", TRAINING, 2, seed=0, seconds=45)
    play(tmp_path / "recordings", RECORDINGS, 0, seed=700_000, seconds=SECONDS)
    faults = choose_faults(tmp_path / "recordings" / "train")
    for recording, fault in faults.items():
        damage(recording, fault)
    prepare(tmp_path / "known", tmp_path / "training")
    prepare(tmp_path / "recordings", tmp_path / "dataset")
    data = [f".data.{split}={tmp_path / 'training'}" for split in ("train", "valid")]
    run("launch/train.py", "=configs/idm.py:demo", *data, f".workdir={tmp_path / 'idm'}", f".steps={STEPS}",
        ".report=False")  # fmt: skip
    output = run("launch/data.py validate", f".data={tmp_path / 'dataset'}", f".idm={tmp_path / 'idm'}", expected=1)

    found, timings = (read(tmp_path / "dataset.inspection") for read in (findings_of, timings_of))
    expected = {recording.name: fault for recording, fault in faults.items()}
    right = [name for name, fault in expected.items() if is_found(fault, found.get(name, []), timings[name])]
    print(output, *(f"{name} {fault} {name in right}" for name, fault in expected.items()), sep="\n")
    assert len(expected.keys() & found.keys()) >= 24
    assert len(right) >= 23
    assert len(found.keys() - expected.keys()) <= 1
