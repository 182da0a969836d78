"""Metrics output: a JSONL file for programs, TensorBoard, and a progress bar or log lines while training."""

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

    The JSONL file holds only computed metrics and no speeds, so that equal runs write equal files, however often they
    were killed: lines after the step of the checkpoint that is resumed are removed first.
    """

    def __init__(self, workdir: Path, step: int, quiet: bool) -> None:
        """Opens the files, to resume after `step`. All processes of a job but one are `quiet`: they write nothing."""
        path = Path(os.devnull) if quiet else workdir / "metrics.jsonl"
        if not quiet:
            _truncate_after(path, step)
        self._file: TextIO = path.open("a")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=step + 1, write_to_disk=not quiet)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Writes the metrics of a finished step to both outputs."""
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        self.write_tensorboard(step, metrics)

    def write_tensorboard(self, step: int, metrics: dict[str, float]) -> None:
        """Writes metrics to TensorBoard alone, such as speeds."""
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flushes and closes the files."""
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
    """Reads the complete lines of a run's `metrics.jsonl`: the last may still be being written, or cut."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def best_evaluation(workdir: Path) -> dict[str, float]:
    """Line of a run's log with the lowest loss on the split `valid`, to be reported by its metrics of the split `test`.

    A run on few data is best before it overfits, but the lowest of several losses on the reported split itself would be
    biased.

    Raises:
        ValueError: no line has both (config.data.test was empty).
    """
    evaluations = [line for line in read_metrics(workdir) if "valid/nll" in line and "test/nll" in line]
    if not evaluations:
        raise ValueError(f"{workdir / 'metrics.jsonl'} has no evaluation on the split `test`: set config.data.test")
    return min(evaluations, key=lambda line: (math.isnan(line["valid/nll"]), line["valid/nll"]))


class Work(NamedTuple):
    """Work of a train step and peak speed of the devices, from which speeds and MFU follow."""

    frames: int  # of a step
    flops_per_frame: float = 0.0  # of training on a frame, by the formula in models/flops.py
    devices: int = 1
    peak_flops: float = 0.0  # operations per second of a device; 0: unknown

    def speeds(self, steps_per_second: float) -> dict[str, float]:
        """Frames per second, and model FLOPs utilization (MFU): the model's arithmetic as a share of the peak."""
        frames = steps_per_second * self.frames
        speeds = {"speed/frames_per_second": frames, "speed/frames_per_second_per_device": frames / self.devices}
        if self.peak_flops:
            speeds["speed/mfu"] = frames * self.flops_per_frame / (self.devices * self.peak_flops)
        return speeds

    def describe(self, speeds: dict[str, float]) -> str:
        """One line of text for `speeds`."""
        text = f"{speeds['speed/frames_per_second']:.0f} frames/s"
        if self.devices > 1:
            text += f", {speeds['speed/frames_per_second_per_device']:.0f} per device"
        return text + (f", MFU {speeds['speed/mfu']:.1%}" if self.peak_flops else "")


class Progress:
    """Progress display: frames per second, the share of time spent waiting for input, and the time left.

    A progress bar on a terminal, a line every `seconds` elsewhere; silent on all hosts but the first.
    """

    def __init__(
        self,
        start: int,
        stop: int,
        work: Work,
        quiet: bool,
        seconds: float = 10.0,
        headline: str = "loss",
        start_note: object = "most of it compiling",
    ) -> None:
        """Shows steps `start` to `stop`.

        Args:
            start: finished steps.
            stop: step after which the run ends.
            work: of a step.
            quiet: show nothing.
            seconds: between two lines.
            headline: name of the metric that is shown of a step.
            start_note: its text, when the first step has ended, is shown with the time that it took.
        """
        self._headline, self._start_note = headline, start_note
        self._stop, self._work, self._quiet, self._seconds = stop, work, quiet, seconds
        self._bar = tqdm(initial=start, total=stop, unit="step", disable=quiet or not sys.stderr.isatty())
        self._start, self._mark, self._waited = start, (start, time.monotonic()), 0.0

    def add_input_wait(self, seconds: float) -> None:
        """Adds time spent waiting for the next batch."""
        self._waited += seconds

    def step(self, step: int, figures: Mapping[str, float]) -> dict[str, float]:
        """Shows a finished step; returns the speeds since the last report, when it is time for one."""
        self._bar.update()
        shown = f"{self._headline} {figures.get(self._headline, math.nan):.3f}"
        last_step, last_time = self._mark
        elapsed = time.monotonic() - last_time
        if last_step == self._start and step < self._stop:  # the first step mostly compiles: no speed
            self.log(f"step {step}/{self._stop}  {shown}  after {elapsed:.0f} s, {self._start_note}")
            self._mark, self._waited = (step, time.monotonic()), 0.0
            return {}
        if elapsed < self._seconds and step < self._stop:
            return {}
        rate = (step - last_step) / elapsed
        speeds = self._work.speeds(rate) | {"speed/input_wait": self._waited / elapsed}
        self._report(step, shown, rate, speeds)
        self._mark, self._waited = (step, time.monotonic()), 0.0
        return speeds

    def _report(self, step: int, shown: str, rate: float, speeds: dict[str, float]) -> None:
        speed, wait = self._work.describe(speeds), speeds["speed/input_wait"]
        self._bar.set_postfix_str(f"{shown}, {speed}, {wait:.0%} waiting for input")
        if not self._quiet and self._bar.disable:
            left = timedelta(seconds=round((self._stop - step) / rate)) if rate else "?"
            self.log(f"step {step}/{self._stop}  {shown}  {speed}  {wait:.0%} waiting for input  {left} left")

    def evaluated(self, step: int, figures: dict[str, float], seconds: float) -> None:
        """Shows the held-out losses of model and baselines: all metrics called `NAME/nll`, or `NAME/relative_error`.

        The `seconds` that the evaluation took do not count in the speed of training.
        """
        self._mark = (self._mark[0], self._mark[1] + seconds)
        parts = ((*name.rpartition("/"), value) for name, value in figures.items())
        losses = {group: value for group, _, metric, value in parts if metric in ("nll", "relative_error")}
        self.log(f"step {step}  held-out loss: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))

    def log(self, message: str) -> None:
        """Prints a line, above the bar if there is one."""
        if not self._quiet:
            self._bar.write(message)
            sys.stdout.flush()

    def close(self) -> None:
        """Closes the progress bar and leaves it on the screen."""
        self._bar.close()
