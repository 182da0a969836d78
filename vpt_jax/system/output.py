"""Standard output and error that never end a program: closed, a pipe that has ended, a lost terminal, any encoding."""

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO


def prepare_output() -> None:
    """Makes both streams of this process write whatever can be written and pass over the rest.

    A job of hours is worth more than its messages. Streams that something else has put in place (a test) are left.
    """
    for name, number in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        _open_closed(number)
        stream, original = getattr(sys, name), getattr(sys, f"__{name}__")
        if name != "stdin" and stream is original:
            setattr(sys, name, _lasting(stream, number))


def _open_closed(number: int) -> None:
    """Descriptors that are closed would be given to the next files that are opened, and messages written into them."""
    try:
        os.fstat(number)
    except OSError:
        _send_nowhere(number)


def _send_nowhere(number: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    os.set_inheritable(number, True)


class _Lasting(io.FileIO):
    """Writes to a descriptor until it cannot be written to; what comes later goes nowhere."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            with suppress(OSError):
                _send_nowhere(self.fileno())
            return len(memoryview(data).cast("B"))


def _lasting(stream: TextIO | None, number: int) -> TextIO:
    raw = _Lasting(number, "w", closefd=False)
    write_through = bool(getattr(stream, "write_through", False))
    return io.TextIOWrapper(
        raw if write_through else io.BufferedWriter(raw),  # type: ignore[arg-type]
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",  # what the terminal's encoding lacks, and names that are not UTF-8
        line_buffering=number == 2 or bool(getattr(stream, "line_buffering", False)),
        write_through=write_through,
    )
