"""Watchdog: kills a game's programs and removes their files once the client process has ended, even by `kill -9`.

Neither child processes nor shared memory disappear by themselves when a parent is killed. The watchdog waits for the
end of a pipe that only the parent holds, so no signal can be missed. It finds the programs by a mark, a word that is on
their command line and on no other. That needs Linux's /proc; on other systems only files are removed.
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

_GRACE_SECONDS = 1.0  # between SIGTERM and SIGKILL


def watch(mark: str, scratch: Path) -> subprocess.Popen[bytes]:
    """Start the watchdog of all programs with `mark` on their command line; it acts once its `stdin` is closed.

    That also happens when the caller dies. It ends the programs, then removes the folder `scratch` and the shared
    memory of registered instances.
    """
    command = [sys.executable, "-I", "-S", __file__, mark, str(scratch)]
    # A session of its own: Ctrl-C on the terminal must not end the watchdog before the game.
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


def register_instance(watchdog: subprocess.Popen[bytes], instance: str) -> None:
    """Register an instance of ViZDoom, whose shared memory the watchdog removes as well."""
    if watchdog.stdin:
        watchdog.stdin.write(instance.encode() + b"\n")
        watchdog.stdin.flush()


def marked(mark: str) -> Iterator[int]:
    """Yields the PIDs of processes with `mark` on their command line, except this one."""
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process ended in between
            if mark.encode() in (process / "cmdline").read_bytes() and int(process.name) != os.getpid():
                yield int(process.name)


def instances_of(mark: str) -> Iterator[str]:
    """Yields the ViZDoom instance names of the marked engines: `+viz_instance_id NAME` on their command line."""
    for process in marked(mark):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace").split("\0")
            yield from (name for flag, name in pairwise(words) if flag == "+viz_instance_id")


def clean_up(mark: str, scratch: Path, instances: list[str]) -> None:
    """End the marked programs, with SIGTERM and then SIGKILL, and remove their files and shared memory."""
    deadline = time.monotonic() + _GRACE_SECONDS
    instances = [*instances, *instances_of(mark)]  # the client may be killed before it has registered one
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
        with contextlib.suppress(OSError):  # it ended in between, or belongs to another user
            os.kill(process, number)


if __name__ == "__main__":
    instances = sys.stdin.buffer.read().decode()  # returns when the last holder of the pipe's other end has exited
    clean_up(sys.argv[1], Path(sys.argv[2]), instances.split())
