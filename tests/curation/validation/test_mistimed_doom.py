"""A small IDM, trained for minutes, finds the 25 of 40 ViZDoom recordings whose actions and frames do not match.

Ten are displaced, ten drift, and of five some frames are dropped or repeated. `pytest -m slow -s` prints the findings.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vpt_jax.curation.validation.alignment import EpisodeScorer, FrameLogProbs, measure_alignment
from vpt_jax.curation.validation.episodes import find_episodes
from vpt_jax.training.checkpoints import load_idm
from vpt_jax.video import FRAME_RATE

from .mistimed import Fault, damage, findings_of, is_found, timings_of

pytest.importorskip("vizdoom")

ROOT = Path(__file__).parents[3]
TRAINING, STEPS = 24, 160  # recordings, of 45 s each; training steps of configs/idm.py:demo
RECORDINGS, SECONDS = 40, 120  # many end earlier
DRIFTS = (1e-3, -1e-3, 1.2e-3, -1.5e-3, 2e-3, -3e-3, 5e-3, -7e-3, 1e-2, -2e-2)  # of the ten longest
LENGTHS, MADE = (30, 60, 120, 240), 10  # seconds; number of plays, joined from clean ones


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


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with `idm` and `dataset`, of recordings into which faults were put; and the faults by name."""
    folder = tmp_path_factory.mktemp("doom")
    play(folder / "known", TRAINING, 2, seed=0, seconds=45)
    play(folder / "recordings", RECORDINGS, 0, seed=700_000, seconds=SECONDS)
    faults = choose_faults(folder / "recordings" / "train")
    for recording, fault in faults.items():
        damage(recording, fault)
    prepare(folder / "known", folder / "training")
    prepare(folder / "recordings", folder / "dataset")
    data = [f".data.{split}={folder / 'training'}" for split in ("train", "valid")]
    run("launch/train.py", "=configs/idm.py:demo", *data, f".workdir={folder / 'idm'}", f".steps={STEPS}",
        ".report=False")  # fmt: skip
    return folder, {recording.name: fault for recording, fault in faults.items()}


@pytest.mark.slow  # a quarter of an hour, with the fixture
def test_faults_of_25_recordings_of_40_are_found(made):
    folder, faults = made
    output = run("launch/data.py validate", f".data={folder / 'dataset'}", f".idm={folder / 'idm'}", expected=1)
    found, timings = (read(folder / "dataset.inspection") for read in (findings_of, timings_of))
    right = [name for name, fault in faults.items() if is_found(fault, found.get(name, []), timings[name])]
    print(output, *(f"{name} {fault} {name in right}" for name, fault in faults.items()), sep="\n")
    assert len(faults.keys() & found.keys()) >= 24
    assert len(right) >= 23
    assert len(found.keys() - faults.keys()) <= 1


@pytest.mark.slow
def test_a_thousandth_is_found_in_two_minutes(made):
    folder, faults = made
    scorer = EpisodeScorer(load_idm(folder / "idm"))
    clean = [episode for episode in find_episodes(folder / "dataset") if episode.name not in faults]
    table = drift_table([play_of(scorer, episode) for episode in clean])
    print("seconds, drift, called: drift, jump, nothing; largest error", *table.items(), sep="\n")
    assert table[120, 0.001][0] >= MADE - 1
    assert table[120, 0.001][3] < 0.0003
    assert all(table[seconds, 0.0][2] >= MADE - 1 for seconds in LENGTHS)


def play_of(scorer, episode):
    """Log-probabilities of an episode's frames, its keys and its camera."""
    return *scorer.log_probs(episode), episode.index.buttons[episode.rows], episode.index.camera[episode.rows]


def drift_table(plays):
    """By length and rate: how many of `MADE` plays are called drifting, a jump, or nothing; and the largest error."""
    rng, table = np.random.default_rng(0), {}
    for seconds in LENGTHS:
        joined = [join(plays, seconds * FRAME_RATE, rng) for _ in range(MADE)]
        for rate in (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01):
            timings = [drifting(fields, rate * (-1) ** i).timing for i, fields in enumerate(joined)]
            errors = [abs(abs(timing.drift) - rate) for timing in timings if timing.drift]
            nothing = sum(timing.is_constant for timing in timings)
            table[seconds, rate] = len(errors), MADE - len(errors) - nothing, nothing, round(max(errors, default=0), 6)
    return table


def join(plays, frames, rng):
    """As many frames, of plays in random order, one after the other."""
    order = [plays[i] for _ in range(10) for i in rng.permutation(len(plays))]
    return [np.concatenate(field)[:frames] for field in zip(*order, strict=True)]


def drifting(fields, rate):
    """The alignment when the actions' clock runs fast by `rate`."""
    keys, bins, buttons, camera = fields
    steps = np.clip(np.floor(np.arange(len(keys)) / (1 + rate)), 0, len(keys) - 1).astype(int)
    return measure_alignment(FrameLogProbs(keys, bins), buttons[steps], camera[steps])
