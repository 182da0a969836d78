"""Orphan clean-up by environment variable: kills processes that games have started, where `supervisor.py` cannot.

Every process that a pool of games starts has the mark in its environment, and its child processes inherit it, whatever
their session, process group or parent. A process that has cleared or overwritten its environment, or belongs to another
user, is not found; the supervisor kills the former, as long as it is running itself. Needs Linux's /proc; on other
systems nothing is found.

    python reaper.py MARK

waits for the end of its standard input, which comes when the last holder of the pipe's other end has exited, and then
kills every process with the mark. Runs under any Python 3.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "VPT_GAME"  # name of the environment variable
_GRACE_SECONDS = 2.0  # for programs that clean up after a game, such as watchdog.py
_KILL_SECONDS = 10.0  # limit on killing, for processes that respawn or do not end


def marked(mark: str) -> list[int]:
    """Returns the PIDs of running processes whose mark begins with `mark`."""
    prefix, found = f"{MARK}={mark}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(variable.startswith(prefix) for variable in (process / "environ").read_bytes().split(b"\0")):
                found.append(int(process.name))
        except OSError:
            continue  # it ended in between, or belongs to another user
    return found


def kill_marked(mark: str) -> None:
    """Kill (SIGKILL) every process with the mark, after `_GRACE_SECONDS` to exit by itself."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.02)
    deadline = time.monotonic() + _KILL_SECONDS
    while left and time.monotonic() < deadline:
        for number in left:
            with suppress(OSError):  # it has ended, or may not be killed by this user
                os.kill(number, signal.SIGKILL)
        time.sleep(0.02)
        left = marked(mark)


def start_reaper(mark: str) -> "subprocess.Popen[bytes]":
    """Start this module as a detached process that kills all marked processes once its `stdin` is closed.

    The returned process itself has exited: it only forks the detached one.
    """
    # A session of its own: Ctrl-C on the terminal must not end it before the games.
    command = [sys.executable, "-I", "-S", __file__, mark]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


if __name__ == "__main__":
    if os.fork():  # detached, with no parent: Ray kills the children of its workers with them
        sys.exit()
    sys.stdin.buffer.read()
    kill_marked(sys.argv[1])
