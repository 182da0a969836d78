"""Goodput: the share of a run's wall time that is spent training, and the shares of everything else."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from vpt_jax.system.atomic_files import read_json

CATEGORIES = {
    "start": "before the first step: opening the data, restoring",
    "compile": "the first step of every start, most of it compiling",
    "step": "training",
    "input": "waiting for input",
    "evaluation": "evaluation",
    "checkpoint": "saving",
    "lost": "steps that a kill undid and that were trained again",
}


class Goodput:
    """Adds up seconds by category, over all starts of a run; `goodput.json` of the work directory holds the sums.

    Steps overlap with the host's work: whatever the devices did not have to wait for counts as "step". Not measured are
    the time before `start_time`, and the time between the last `write` and a kill.
    """

    def __init__(self, workdir: Path, step: int, start_time: float, quiet: bool) -> None:
        """Continues the sums of `goodput.json`.

        Args:
            workdir: of the run.
            step: last finished step; steps that a kill has undone count as "lost".
            start_time: when the process started, by `time.monotonic`.
            quiet: write nothing.
        """
        self._file, self._quiet, self._compiled = workdir / "goodput.json", quiet, False
        stored = read_json(self._file) or {}  # figures, not worth an fsync: they start from zero if they are damaged
        self._starts = stored.get("starts", 0) + 1
        self._seconds = dict.fromkeys(CATEGORIES, 0.0) | stored.get("seconds", {})
        if undone := max(stored.get("step", 0) - step, 0):
            lost = self._seconds["step"] * undone / stored["step"]
            self._seconds["step"] -= lost
            self._seconds["lost"] += lost
        self._seconds["start"] += time.monotonic() - start_time

    @contextmanager
    def measure(self, kind: str) -> Iterator[None]:
        """Context manager whose wall time counts as `kind`, one of `CATEGORIES`; the first step as "compile"."""
        if kind == "step" and not self._compiled:
            kind, self._compiled = "compile", True
        entered = time.monotonic()
        try:
            yield
        finally:
            self.add(kind, time.monotonic() - entered)

    def add(self, kind: str, seconds: float) -> None:
        """Adds seconds to a category."""
        self._seconds[kind] += seconds

    def write(self, step: int) -> dict[str, float]:
        """Writes the sums after `step` to disk (atomic write); returns the share of each kind, as `goodput/KIND`."""
        if not self._quiet:
            sums = {"step": step, "starts": self._starts, "seconds": self._seconds}
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(json.dumps(sums, indent=1) + "\n")
            os.replace(temporary, self._file)
        return {f"goodput/{kind}": share for kind, share in self._shares().items()}

    def __str__(self) -> str:
        """One line of text: total time, number of starts, and shares by category, the largest first."""
        shares = sorted(self._shares().items(), key=lambda pair: -pair[1])
        total = timedelta(seconds=round(sum(self._seconds.values())))
        parts = ", ".join(f"{share:.1%} {kind}" for kind, share in shares if share)
        return f"time {total} in {self._starts} start{'s' * (self._starts > 1)}: {parts}"

    def _shares(self) -> dict[str, float]:
        total = sum(self._seconds.values()) or 1.0
        return {kind: seconds / total for kind, seconds in self._seconds.items()}
