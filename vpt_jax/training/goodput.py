"""Where a run's wall time goes: how much of it is training, and what takes the rest."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from vpt_jax.system.atomic_files import read_json

KINDS = {
    "start": "before the first step: opening the data, restoring",
    "compile": "the first step of every start, most of it compiling",
    "step": "training",
    "input": "waiting for input",
    "evaluation": "evaluation",
    "checkpoint": "saving",
    "lost": "steps that a kill undid and that were trained again",
}


class Goodput:
    """Adds up seconds by kind, over all starts of a run; `goodput.json` of the work directory holds the sums.

    Steps overlap with what the host does meanwhile: what the devices did not have to wait for counts as "step". Not
    seen are the time before `began`, and what a kill took since the last note.
    """

    def __init__(self, workdir: Path, step: int, began: float, quiet: bool) -> None:
        """Goes on after `step`; it was started at `began` (`time.monotonic`). If `quiet`, nothing is written."""
        self._file, self._quiet, self._compiled = workdir / "goodput.json", quiet, False
        noted = read_json(self._file) or {}  # figures, not worth an fsync: they begin anew if they are damaged
        self._starts = noted.get("starts", 0) + 1
        self._seconds = dict.fromkeys(KINDS, 0.0) | noted.get("seconds", {})
        if undone := max(noted.get("step", 0) - step, 0):
            lost = self._seconds["step"] * undone / noted["step"]
            self._seconds["step"] -= lost
            self._seconds["lost"] += lost
        self._seconds["start"] += time.monotonic() - began

    @contextmanager
    def spent(self, kind: str) -> Iterator[None]:
        """What is done inside counts as `kind`, one of `KINDS`; the first step as "compile"."""
        if kind == "step" and not self._compiled:
            kind, self._compiled = "compile", True
        began = time.monotonic()
        try:
            yield
        finally:
            self.add(kind, time.monotonic() - began)

    def add(self, kind: str, seconds: float) -> None:
        """The same for what took so long."""
        self._seconds[kind] += seconds

    def note(self, step: int) -> dict[str, float]:
        """Writes the sums down, as they are after a step; returns the share of each kind, as `goodput/KIND`."""
        if not self._quiet:
            noted = {"step": step, "starts": self._starts, "seconds": self._seconds}
            temporary = self._file.with_suffix(".tmp")
            temporary.write_text(json.dumps(noted, indent=1) + "\n")
            os.replace(temporary, self._file)
        return {f"goodput/{kind}": share for kind, share in self._shares().items()}

    def __str__(self) -> str:
        """The sums in a line, the largest first."""
        shares = sorted(self._shares().items(), key=lambda pair: -pair[1])
        total = timedelta(seconds=round(sum(self._seconds.values())))
        parts = ", ".join(f"{share:.1%} {kind}" for kind, share in shares if share)
        return f"time {total} in {self._starts} start{'s' * (self._starts > 1)}: {parts}"

    def _shares(self) -> dict[str, float]:
        total = sum(self._seconds.values()) or 1.0
        return {kind: seconds / total for kind, seconds in self._seconds.items()}
