"""Ends a Doom engine, and removes what it leaves, once the process that plays it is gone: even after `kill -9`.

ViZDoom runs the engine as a child process that shares memory with its parent; neither goes away by itself when the
parent is killed. The watchdog waits for the end of a pipe that only the parent holds, so no signal can be missed.
Finding the engine needs Linux's /proc; elsewhere only the scratch folder is removed.
"""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path


def watch(instance: str, scratch: Path) -> subprocess.Popen[bytes]:
    """Start the watchdog of engine `instance`. Closing its `stdin`, or dying, lets it clean up."""
    command = [sys.executable, "-I", "-S", __file__, instance, str(scratch)]
    # A session of its own: Ctrl-C on the terminal must not end the watchdog before the game.
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603


def clean_up(instance: str, scratch: Path) -> None:
    """Kill the engine if it still runs and remove its shared memory and scratch folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"\0+viz_instance_id\0" + instance.encode() + b"\0" in (process / "cmdline").read_bytes():
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue  # the process ended in between, or is not ours
    for segment in Path("/dev/shm").glob(f"ViZDoom*{instance}"):  # noqa: S108 - where Linux keeps shared memory
        segment.unlink(missing_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()  # returns when the last holder of the pipe's other end is gone
    clean_up(sys.argv[1], Path(sys.argv[2]))
