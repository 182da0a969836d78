"""A file of JSON lines that only grows: what was written stays, whatever happens to the program."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class JournalError(ValueError):
    """A journal that cannot be read; the message names the file, the line and what to do."""


class Journal:
    """Reads what is there and appends to it. A last line that was not finished is taken away.

    Raises:
        JournalError: a line is no JSON object.
    """

    def __init__(self, path: Path):
        self.path = path
        path.touch()
        whole = _whole_lines(path)
        if whole < path.stat().st_size:
            os.truncate(path, whole)
        self.lines = [self._parse(number, line) for number, line in enumerate(path.open("rb"), 1)]

    def append(self, *lines: Mapping[str, Any]) -> None:
        """Adds lines; they are on the disk when this returns."""
        with self.path.open("ab") as file:
            file.write(b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
        self.lines.extend(map(dict, lines))

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            parsed = json.loads(line)
        except ValueError as error:  # of Unicode too
            raise JournalError(f"{self.path}, line {number}: {error}. Remove this line") from error
        if not isinstance(parsed, dict):
            raise JournalError(f"{self.path}, line {number}: no JSON object. Remove this line")
        return parsed


def _whole_lines(path: Path) -> int:
    """Bytes up to the end of the last line that has one."""
    with path.open("rb") as file:
        return sum(len(line) for line in file if line.endswith(b"\n"))
