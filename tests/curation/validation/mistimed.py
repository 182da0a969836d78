"""Recordings whose actions and frames are moved against each other, as by faulty recorders."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vpt_jax.video import VideoWriter, decode


class Fault(NamedTuple):
    """A fault of a recording. `size`: frames, or for a drift a share of the speed."""

    kind: str
    size: float
    at: int = 0  # frame


def damage(recording, fault):
    """Puts a fault into a recording; `recording` is the path without suffix."""
    if fault.kind == "displaced":
        reorder(recording, lambda steps: np.clip(np.arange(steps) - fault.size, 0, steps - 1))
    elif fault.kind == "drift":
        reorder(recording, lambda steps: np.clip(np.floor(np.arange(steps) / (1 + fault.size)), 0, steps - 1))
    else:
        drop(recording, fault.at, fault.size)


def reorder(recording, steps_of):
    """Writes, at every step, the action of another one."""
    jsonl = Path(f"{recording}.jsonl")
    lines = jsonl.read_text().splitlines()
    jsonl.write_text("\n".join(lines[step] for step in steps_of(len(lines)).astype(int)) + "\n")


def drop(recording, at, count):
    """Drops `count` frames of the video from frame `at` on, or repeats frame `at` if negative; all actions are kept.

    What is then too long at the end is cut.
    """
    frames = list(decode(f"{recording}.mp4"))
    kept = frames[:at] + ([frames[at]] * -count + frames[at:] if count < 0 else frames[at + count :])
    kept = kept[: len(frames)]
    with VideoWriter(f"{recording}.mp4", *frames[0].shape[:2]) as video:
        for frame in kept:
            video.write(frame)
    jsonl = Path(f"{recording}.jsonl")
    jsonl.write_text("\n".join(jsonl.read_text().splitlines()[: len(kept)]) + "\n")


def findings_of(out):
    """Findings in `validate.json` by the episode's name."""
    found = {}
    for finding in json.loads((Path(out) / "validate.json").read_text())["findings"]:
        found.setdefault(Path(finding["where"]).name, []).append(finding)
    return found


def timings_of(out):
    """Measured timing, and constant displacement, by the episode's name."""
    fits = json.loads((Path(out) / "validate.json").read_text())["fits"]
    return {Path(name).name: fit["timing"] | {"late": fit["late"]} for name, fit in fits.items()}


def is_found(fault, findings, timing):
    """True if the findings of a recording name its fault, and no other kind; and the value is right to half a frame."""
    kind = fault.kind if fault.kind != "dropped" or fault.size > 0 else "repeated"
    if {finding["kind"] for finding in findings} != {kind}:
        return False
    if kind == "displaced":
        return timing["late"] == fault.size
    if kind == "drift":
        return abs(timing["drift"] - fault.size) < max(2.5 * timing["drift_error"], 0.05 * abs(fault.size))
    sizes = [jump["frames"] for jump in timing["jumps"]]
    return sizes == [fault.size] and abs(timing["jumps"][0]["frame"] - fault.at) <= 40
