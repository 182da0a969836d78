"""Ends whatever games have started, however deep and however detached, also after a `kill -9` of who plays them.

Every process that a pool of games starts has a mark in its environment, which all that it starts inherits: no session,
no process group and no orphan escapes it. Needs Linux's /proc; elsewhere only process groups are ended.

    python reaper.py MARK

waits until its standard input ends, which it does when the last holder of the pipe's other end is gone, and then ends
all that carries the mark. Runs under any Python 3.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "VPT_GAME"  # name of the environment variable
_GRACE = 2.0  # seconds for what cleans up after a game, such as watchdog.py


def marked(mark: str) -> list[int]:
    """Numbers of the living processes whose mark begins with `mark`."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(variable.startswith(wanted) for variable in (process / "environ").read_bytes().split(b"\0")):
                found.append(int(process.name))
        except OSError:
            continue  # it ended in between, or is another user's
    return found


def end_marked(mark: str) -> None:
    """Kill all that carries the mark, once it has had a moment to end by itself."""
    until = time.monotonic() + _GRACE
    while (left := marked(mark)) and time.monotonic() < until:
        time.sleep(0.02)
    while left:
        for number in left:
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
        left = marked(mark)


def start_reaper(mark: str) -> "subprocess.Popen[bytes]":
    """Starts the program above; what it returns is done, but ends all that is marked when its `stdin` is closed."""
    # A session of its own: Ctrl-C on the terminal must not end it before the games.
    command = [sys.executable, "-I", "-S", __file__, mark]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


if __name__ == "__main__":
    if os.fork():  # nobody's child: Ray kills the children of its workers with them
        sys.exit()
    sys.stdin.buffer.read()
    end_marked(sys.argv[1])
