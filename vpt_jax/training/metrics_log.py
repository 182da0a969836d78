"""Where figures go: a JSONL file for programs, TensorBoard for people, a line or a progress bar while training."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple, TextIO

from tensorboardX import SummaryWriter
from tqdm import tqdm

from vpt_jax.system.atomic_files import write_text


class MetricsLog:
    """Writes `metrics.jsonl` and TensorBoard files.

    The JSONL file holds only what a run computes, nothing of its speed, so that equal runs write equal files, however
    often they were killed: lines after the step of the checkpoint that is resumed are taken back first.
    """

    def __init__(self, workdir: Path, step: int, quiet: bool) -> None:
        """Goes on after `step`. Of a job's processes, all but one are `quiet`: they write nothing."""
        path = Path(os.devnull) if quiet else workdir / "metrics.jsonl"
        if not quiet:
            _truncate_after(path, step)
        self._file: TextIO = path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1, write_to_disk=not quiet)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Figures of the step that has just been finished."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        self.show(step, metrics)

    def show(self, step: int, metrics: dict[str, float]) -> None:
        """Figures for TensorBoard alone, such as speeds."""
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes out what is still buffered."""
        self._file.close()
        self._board.close()


def _truncate_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break  # a line cut off by a kill, or one from after the checkpoint
        kept.append(line)
    write_text(path, "".join(kept))


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """All lines of a run's `metrics.jsonl`."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


class Work(NamedTuple):
    """What a step does, and what the machines could do."""

    frames: int  # of a step
    flops: float = 0.0  # of training on a frame, by the formula in models/flops.py
    devices: int = 1
    peak: float = 0.0  # operations a second of a device; 0: unknown

    def speeds(self, steps_per_second: float) -> dict[str, float]:
        """Frames per second, and the share of the machines' peak that the model's arithmetic takes (MFU)."""
        frames = steps_per_second * self.frames
        speeds = {"speed/frames_per_second": frames, "speed/frames_per_second_per_device": frames / self.devices}
        if self.peak:
            speeds["speed/mfu"] = frames * self.flops / (self.devices * self.peak)
        return speeds

    def show(self, speeds: dict[str, float]) -> str:
        """The same in words."""
        shown = f"{speeds['speed/frames_per_second']:.0f} frames/s"
        if self.devices > 1:
            shown += f", {speeds['speed/frames_per_second_per_device']:.0f} a device"
        return shown + (f", MFU {speeds['speed/mfu']:.1%}" if self.peak else "")


class Progress:
    """Frames per second, the share of time spent waiting for input, and the time left.

    A bar on a terminal, a line every `seconds` elsewhere; silent on all hosts but the first.
    """

    def __init__(
        self, start: int, stop: int, work: Work, quiet: bool, seconds: float = 10.0, headline: str = "loss"
    ) -> None:
        """From step `start` to `stop`; `headline` names the figure that is shown of a step."""
        self._headline = headline
        self._stop, self._work, self._quiet, self._seconds = stop, work, quiet, seconds
        self._bar = tqdm(initial=start, total=stop, unit="step", disable=quiet or not sys.stderr.isatty())
        self._start, self._mark, self._waited = start, (start, time.monotonic()), 0.0

    def waited(self, seconds: float) -> None:
        """Takes note of time spent waiting for the next batch."""
        self._waited += seconds

    def step(self, step: int, figures: Mapping[str, float]) -> dict[str, float]:
        """Shows a finished step; returns the speeds since the last report, when it is time for one."""
        self._bar.update()
        shown = f"{self._headline} {figures.get(self._headline, math.nan):.3f}"
        then_step, then = self._mark
        elapsed = time.monotonic() - then
        if then_step == self._start and step < self._stop:  # the first step says nothing of the speed
            self.say(f"step {step}/{self._stop}  {shown}  after {elapsed:.0f} s, most of it compiling")
            self._mark, self._waited = (step, time.monotonic()), 0.0
            return {}
        if elapsed < self._seconds and step < self._stop:
            return {}
        rate = (step - then_step) / elapsed
        speeds = self._work.speeds(rate) | {"speed/input_wait": self._waited / elapsed}
        self._report(step, shown, rate, speeds)
        self._mark, self._waited = (step, time.monotonic()), 0.0
        return speeds

    def _report(self, step: int, shown: str, rate: float, speeds: dict[str, float]) -> None:
        speed, wait = self._work.show(speeds), speeds["speed/input_wait"]
        self._bar.set_postfix_str(f"{shown}, {speed}, {wait:.0%} waiting for input")
        if not self._quiet and self._bar.disable:
            left = timedelta(seconds=round((self._stop - step) / rate)) if rate else "?"
            self.say(f"step {step}/{self._stop}  {shown}  {speed}  {wait:.0%} waiting for input  {left} left")

    def evaluated(self, step: int, figures: dict[str, float], seconds: float) -> None:
        """Shows the losses on held-out data, the baselines' too: all figures called `NAME/nll`.

        The seconds it took do not count in the speed of training.
        """
        self._mark = (self._mark[0], self._mark[1] + seconds)
        losses = {name.removesuffix("/nll"): loss for name, loss in figures.items() if name.endswith("/nll")}
        self.say(f"step {step}  held-out loss: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))

    def say(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if not self._quiet:
            self._bar.write(text)
            sys.stdout.flush()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
