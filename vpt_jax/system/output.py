"""Standard output and error that never end a program: closed streams, broken pipes, lost terminals, any encoding."""

import io
import os
import sys
from contextlib import suppress
from typing import Any, TextIO


def prepare_output() -> None:
    """Make stdout and stderr of this process ignore write errors and encode unencodable characters as escapes.

    A job of hours is worth more than its messages. Streams that something else has replaced (a test) are left alone.
    """
    for name, descriptor in (("stdin", 0), ("stdout", 1), ("stderr", 2)):
        _reopen_if_closed(descriptor)
        stream, original = getattr(sys, name), getattr(sys, f"__{name}__")
        if name != "stdin" and stream is original:
            setattr(sys, name, _robust_stream(stream, descriptor))


def _reopen_if_closed(descriptor: int) -> None:
    """Open a closed standard descriptor as /dev/null; otherwise the next opened file gets it, and the messages too."""
    try:
        os.fstat(descriptor)
    except OSError:
        _redirect_to_devnull(descriptor)


def _redirect_to_devnull(descriptor: int) -> None:
    devnull = os.open(os.devnull, os.O_RDWR)
    if devnull != descriptor:
        os.dup2(devnull, descriptor)
        os.close(devnull)
    os.set_inheritable(descriptor, True)


class _FailsafeFile(io.FileIO):
    """A raw file that is redirected to /dev/null after its first failed write."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            with suppress(OSError):
                _redirect_to_devnull(self.fileno())
            return len(memoryview(data).cast("B"))


def _robust_stream(stream: TextIO | None, descriptor: int) -> TextIO:
    raw = _FailsafeFile(descriptor, "w", closefd=False)
    write_through = bool(getattr(stream, "write_through", False))
    return io.TextIOWrapper(
        raw if write_through else io.BufferedWriter(raw),  # type: ignore[arg-type]
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",  # for characters outside the terminal's encoding, and names that are not UTF-8
        line_buffering=descriptor == 2 or bool(getattr(stream, "line_buffering", False)),
        write_through=write_through,
    )
