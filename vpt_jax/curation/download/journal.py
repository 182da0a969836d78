"""Append-only JSON Lines journal: lines are synced to disk (fsync) and survive a kill or power cut."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpt_jax.system.errors import UserError


class JournalError(UserError, ValueError):
    """The journal cannot be read; the message names the file, the line and the remedy."""


class Journal:
    """Reads an existing journal and appends to it. An incomplete last line is removed.

    Raises:
        JournalError: a line is not a JSON object.
    """

    def __init__(self, path: Path):
        self.path = path
        path.touch()
        complete = _complete_lines_size(path)
        if complete < path.stat().st_size:
            os.truncate(path, complete)
        self.lines = [self._parse(number, line) for number, line in enumerate(path.open("rb"), 1)]

    def append(self, *lines: Mapping[str, Any]) -> None:
        """Appends lines; they are synced to disk when this returns."""
        with self.path.open("ab") as file:
            file.write(b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        self.lines.extend(map(dict, lines))

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(line)
        except ValueError as error:  # also raised for invalid UTF-8
            raise JournalError(f"{self.path}, line {number}: {error}. Remove this line") from error
        if not isinstance(parsed, dict):
            raise JournalError(f"{self.path}, line {number}: not a JSON object. Remove this line")
        return parsed


def _complete_lines_size(path: Path) -> int:
    """Bytes of all lines that end in a newline; only the last line can lack it."""
    with path.open("rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))
