"""Process supervisor of one game: starts it, and kills its process tree when the game or its client has ended.

    python supervisor.py

Standard input is a pipe. Its first line is JSON, {"command": [...], "descriptors": [...], "environment": {...}}: the
command to start, the inherited file descriptors that it gets, and environment variables to add. The end of the pipe,
which also comes when its writer is killed, ends the game.

On Linux this process is a "child subreaper" (prctl(2)): a descendant whose parent has ended becomes its child. So the
tree holds every process that the game starts by itself, whatever its session, process group or environment. It does not
hold processes that a daemon starts on request (systemd, Docker), nor any process after the game has killed this one:
`reaper.py` then kills those with its mark. On other systems only the game's process group is killed.
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

GRACE_SECONDS = 2.0  # for programs that clean up after a game, such as watchdog.py
KILL_SECONDS = 10.0  # limit on killing, for processes that respawn
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def descendants(ancestor: int) -> list[int]:
    """Returns the PIDs of all descendants of a process."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it ended in between
            parent = int(stat.read_bytes().rpartition(b")")[2].split()[1])  # after the name, which may hold ")"
            children.setdefault(parent, []).append(int(stat.parent.name))
    found: list[int] = []
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def adopt_orphans() -> None:
    """Become the child subreaper: the parent of descendants whose own parent ends. No effect where unsupported."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_children() -> set[int]:
    """Reap children that have ended (waitpid), and return their PIDs."""
    ended: set[int] = set()
    with suppress(ChildProcessError):
        while number := os.waitpid(-1, os.WNOHANG)[0]:
            ended.add(number)
    return ended


def kill_tree() -> None:
    """Kill all descendants (SIGKILL), after `GRACE_SECONDS` to exit by themselves."""
    start_time = time.monotonic()
    while (seconds := time.monotonic() - start_time) < GRACE_SECONDS + KILL_SECONDS:
        reap_children()
        if not (left := descendants(os.getpid())):
            return
        for number in left if seconds > GRACE_SECONDS else ():
            with suppress(OSError):
                os.kill(number, signal.SIGKILL)
        time.sleep(0.01)


def supervise(request: dict) -> None:
    """Start the game, wait until it exits or the pipe is closed, and kill its process tree."""
    adopt_orphans()
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakeup_write)
    try:
        game = subprocess.Popen(  # noqa: S603 - the interpreter that the config names
            request["command"], stdin=subprocess.DEVNULL, pass_fds=request["descriptors"], start_new_session=True,
            env={**os.environ, **request["environment"]},
        )  # fmt: skip
    except OSError as error:
        sys.exit(f"the game cannot be started: {error}")
    for descriptor in request["descriptors"]:
        os.close(descriptor)  # the channel must close when the game ends
    while 0 not in select.select([0, wakeup_read], [], [])[0]:
        os.read(wakeup_read, 4096)
        if game.pid in reap_children():
            break
    else:
        with suppress(OSError):
            os.killpg(game.pid, signal.SIGKILL)
    kill_tree()


if __name__ == "__main__":
    supervise(json.loads(sys.stdin.buffer.readline()))
