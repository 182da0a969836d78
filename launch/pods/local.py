"""Start a training job as several processes of this machine, each with its own devices.

    python launch/pods/local.py --processes=4 -- launch/train.py --config=configs/foundation.py:71m ...

For CPUs, to try out what a cluster will do: of several GPUs in one machine, a single process drives all, so start
launch/train.py by itself there. Every line is printed with its process's number. SIGTERM and Ctrl-C reach all
processes; if one fails, all are stopped, by force where they do not stop by themselves. If this program is killed, they
get a SIGTERM from the kernel, on Linux, so they save and end. With --dry_run the commands are printed only.
"""

import ctypes
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import IO

from absl import app, flags

_PROCESSES = flags.DEFINE_integer("processes", 2, "How many.", lower_bound=1)
_PORT = flags.DEFINE_integer("port", 0, "Where process 0 waits for the others; 0: whatever is free.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands only.")
_POLL = 0.1  # seconds
_PATIENCE = 120.0  # seconds to save in; then processes are killed
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LAST_LINES = 5.0  # seconds to wait for them


def main(arguments: list[str]) -> None:
    if len(arguments) < 2:
        sys.exit("error: say what to start: python launch/pods/local.py --processes=4 -- launch/train.py --config=...")
    commands = list(commands_of(arguments[1:], _PROCESSES.value, _PORT.value or free_port()))
    if _DRY_RUN.value:
        print("\n".join(map(shlex.join, commands)))
        return
    sys.exit(run(commands))


def commands_of(program: list[str], processes: int, port: int) -> list[list[str]]:
    shared = [f"--config.distributed.coordinator=127.0.0.1:{port}", f"--config.distributed.num_processes={processes}"]
    return [
        [sys.executable, *program, *shared, f"--config.distributed.process_id={number}"] for number in range(processes)
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(commands: list[list[str]]) -> int:
    """Runs all side by side; returns the exit status of the first that fails, or 0."""
    stopping: list[float] = []  # when it was first asked for
    for received in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # training saves and ends on SIGTERM
        signal.signal(received, lambda *_: stopping.append(time.monotonic()))
    processes = [start(command) for command in commands]
    readers = [
        threading.Thread(target=show, args=(number, process.stdout), daemon=True)
        for number, process in enumerate(processes)
    ]
    for reader in readers:
        reader.start()
    status, told = 0, False
    while running := [process for process in processes if process.poll() is None]:
        status = status or next((process.returncode for process in processes if process.returncode), 0)
        if status and not stopping:
            stopping.append(time.monotonic())
        if stopping and not told:
            told = True
            for process in running:
                process.terminate()
        if stopping and time.monotonic() - stopping[0] > _PATIENCE:
            end(running)
        time.sleep(_POLL)
    end(processes)  # what they started and left behind
    for reader in readers:
        reader.join(_LAST_LINES)
    return status or next((process.returncode for process in processes if process.returncode), 0)


def start(command: list[str]) -> subprocess.Popen[str]:
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def end_with_parent() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # it was killed in between
                os._exit(1)

    return subprocess.Popen(  # noqa: S603 - what the user asks for
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        preexec_fn=end_with_parent,  # no thread runs yet
        start_new_session=True,  # a Ctrl-C reaches this process alone, which passes it on once
    )  # fmt: skip


def end(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def show(number: int, lines: IO[str]) -> None:
    for line in lines:
        sys.stdout.write(f"[{number}] {line}")
        sys.stdout.flush()


if __name__ == "__main__":
    app.run(main)
