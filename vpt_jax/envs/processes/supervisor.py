"""Supervises one game: starts it, and kills its process tree when the game, or the program that plays it, has ended.

    python supervisor.py

Standard input is a pipe. Its first line is JSON, {"command": [...], "descriptors": [...], "environment": {...}}: what
to start, which inherited descriptors it gets, and variables to add. The end of the pipe, which also comes when its
writer is killed, ends the game.

On Linux this process is a "child subreaper" (prctl(2)): a descendant whose parent has ended becomes its child. So the
tree holds all that the game starts by itself, whatever session, process group or environment that has. It does not
hold what a daemon outside starts on request (systemd, Docker), nor anything once the game has killed this process: what
then carries the mark of `reaper.py` is ended by that. Elsewhere than on Linux only the game's process group is ended.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE = 2.0  # seconds for programs that clean up after a game, such as watchdog.py
LONGEST = 10.0  # seconds of killing what starts anew all the time
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def descendants(ancestor: int) -> list[int]:
    """The processes below one, however deep."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended in between
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])  # the name before it may hold anything
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends. Does nothing where the kernel has no such thing."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap() -> set[int]:
    """Take leave of children that have ended; their numbers."""
    ended: set[int] = set()
    with suppress(ChildProcessError):
        while number := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(number)
    return ended


def kill_tree() -> None:
    """Kill all descendants, once they have had a moment to end by themselves."""
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < GRACE + LONGEST:
        reap()
        if not (left := descendants(os.getpid())):
            return
        for number in left if seconds > GRACE else ():
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.01)


def supervise(order: dict) -> None:
    """Start the game, and end with it or with the pipe."""
    adopt_orphans()
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    try:
        game = subprocess.Popen(  # noqa: S603 - the interpreter that the config names
            order["command"], stdin=subprocess.DEVNULL, pass_fds=order["descriptors"], start_new_session=True,
            env={**os.environ, **order["environment"]},
        )  # fmt: skip
    except OSError as error:
        sys.exit(f"the game cannot be started: {error}")
    for descriptor in order["descriptors"]:
        os.close(descriptor)  # the end of the game is to be the end of its channel
    while 0 not in select.select([0, woken], [], [])[0]:
        os.read(woken, 4096)
        if game.pid in reap():
            break
    else:
        with suppress(OSError):
            os.killpg(game.pid, signal.SIGKILL)
    kill_tree()


if __name__ == "__main__":
    supervise(json.loads(sys.stdin.buffer.readline()))
