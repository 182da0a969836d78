"""Ends what games have started by a mark in its environment: the second line behind `supervisor.py`.

Every process that a pool of games starts has the mark, and what that starts inherits it, whatever its session, process
group or parent. A process that has cleaned or overwritten its environment, or belongs to another user, is not found:
the first kind the supervisor ends, as long as it lives itself. Needs Linux's /proc; elsewhere nothing is found.

    python reaper.py MARK

waits until its standard input ends, which it does when the last holder of the pipe's other end is gone, and then ends
all that carries the mark. Runs under any Python 3.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "VPT_GAME"  # name of the environment variable
_GRACE = 2.0  # seconds for what cleans up after a game, such as watchdog.py
_LONGEST = 10.0  # seconds of killing what starts anew all the time, or does not end


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
    until = time.monotonic() + _LONGEST
    while left and time.monotonic() < until:
        for number in left:
            with suppress(OSError):  # it has ended, or is not ours to end
                os.kill(number, signal.SIGKILL)
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
