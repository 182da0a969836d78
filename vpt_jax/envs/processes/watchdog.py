"""Ends a game's programs, and removes what they leave, once the process that plays is gone: even after `kill -9`.

Neither child processes nor shared memory go away by themselves when a parent is killed. The watchdog waits for the end
of a pipe that only the parent holds, so no signal can be missed. What to end it finds by a mark, a word that is on the
command line of these programs and of no others. That needs Linux's /proc; elsewhere only files are removed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

_GRACE = 1.0  # seconds between asking programs to end and ending them


def watch(mark: str, scratch: Path) -> subprocess.Popen[bytes]:
    """Start the watchdog of all programs with `mark` on their command line. Closing its `stdin`, or dying, sets it off.

    It ends the programs, then removes the folder `scratch` and the shared memory that it was told of.
    """
    command = [sys.executable, "-I", "-S", __file__, mark, str(scratch)]
    # A session of its own: Ctrl-C on the terminal must not end the watchdog before the game.
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


def tell(watchdog: subprocess.Popen[bytes], instance: str) -> None:
    """Let the watchdog remove the shared memory of an instance of ViZDoom as well."""
    if watchdog.stdin:
        watchdog.stdin.write(instance.encode() + b"\n")
        watchdog.stdin.flush()


def marked(mark: str) -> Iterator[int]:
    """The processes with `mark` on their command line, without this one."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process ended in between
            if mark.encode() in (process / "cmdline").read_bytes() and int(process.name) != os.getpid():
                yield int(process.name)


def instances_of(mark: str) -> Iterator[str]:
    """The names that the marked engines have for ViZDoom: `+viz_instance_id NAME` on their command line."""
    for process in marked(mark):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
            yield from (name for flag, name in pairwise(words) if flag == "+viz_instance_id")


def clean_up(mark: str, scratch: Path, instances: list[str]) -> None:
    """End the marked programs, gently at first, and remove what they leave."""
    deadline = time.monotonic() + _GRACE
    instances = [*instances, *instances_of(mark)]  # who plays may be killed before it could tell
    _signal(mark, signal.SIGTERM)
    while any(marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    _signal(mark, signal.SIGKILL)
    for instance in instances:
        for segment in Path("/dev/shm").glob(f"ViZDoom*{instance}"):  # noqa: S108 - where Linux keeps shared memory
            segment.unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)


def _signal(mark: str, number: signal.Signals) -> None:
    for process in marked(mark):
        with contextlib.suppress(OSError):  # it ended in between, or is not ours
            os.kill(process, number)


if __name__ == "__main__":
    told = sys.stdin.buffer.read().decode()  # returns when the last holder of the pipe's other end is gone
    clean_up(sys.argv[1], Path(sys.argv[2]), told.split())
