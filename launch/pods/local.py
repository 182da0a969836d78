"""Start a training job as several processes of this machine, each with its own devices.

    python launch/pods/local.py --processes=4 -- launch/train.py --config=configs/foundation.py:71m ...

For CPUs, to simulate a cluster of several hosts: several GPUs of one machine are driven by a single process, so start
launch/train.py directly there. Every output line is printed with its process's number. SIGTERM and Ctrl-C are forwarded
to all processes; if one fails, all are stopped, and killed after a grace period. If this program is killed, they get a
SIGTERM from the kernel (Linux), so they save and exit. With --dry_run the commands are printed only.
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

_PROCESSES = flags.DEFINE_integer("processes", 2, "Number of processes.", lower_bound=1)
_PORT = flags.DEFINE_integer("port", 0, "Port of process 0 (the coordinator); 0: any free port.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands only.")
_POLL_INTERVAL = 0.1  # seconds
_GRACE_SECONDS = 120.0  # to save a checkpoint; then processes are killed
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_OUTPUT_TIMEOUT = 5.0  # seconds to read the rest of their output


def main(arguments: list[str]) -> None:
    """Run the commands of all processes, or print them."""
    if len(arguments) < 2:
        sys.exit("error: no program given: python launch/pods/local.py --processes=4 -- launch/train.py --config=...")
    commands = list(commands_of(arguments[1:], _PROCESSES.value, _PORT.value or free_port()))
    if _DRY_RUN.value:
        print("\n".join(map(shlex.join, commands)))
        return
    sys.exit(run(commands))


def commands_of(program: list[str], processes: int, port: int) -> list[list[str]]:
    """The command of each process, with the fields of `config.distributed`."""
    shared = [f"--config.distributed.coordinator=127.0.0.1:{port}", f"--config.distributed.num_processes={processes}"]
    return [
        [sys.executable, *program, *shared, f"--config.distributed.process_id={number}"] for number in range(processes)
    ]


def free_port() -> int:
    """A TCP port of this machine that is free at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def run(commands: list[list[str]]) -> int:
    """Run all commands in parallel; returns the exit status of the first that fails, or 0."""
    stop_times: list[float] = []  # times of the stop requests
    for received in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # training saves and ends on SIGTERM
        signal.signal(received, lambda *_: stop_times.append(time.monotonic()))
    processes = [start_process(command) for command in commands]
    readers = [
        threading.Thread(target=print_lines, args=(number, process.stdout), daemon=True)
        for number, process in enumerate(processes)
    ]
    for reader in readers:
        reader.start()
    status, terminated = 0, False
    while running := [process for process in processes if process.poll() is None]:
        status = status or next((process.returncode for process in processes if process.returncode), 0)
        if status and not stop_times:
            stop_times.append(time.monotonic())
        if stop_times and not terminated:
            terminated = True
            for process in running:
                process.terminate()
        if stop_times and time.monotonic() - stop_times[0] > _GRACE_SECONDS:
            kill(running)
        time.sleep(_POLL_INTERVAL)
    kill(processes)  # including child processes that they left behind
    for reader in readers:
        reader.join(_OUTPUT_TIMEOUT)
    return status or next((process.returncode for process in processes if process.returncode), 0)


def start_process(command: list[str]) -> subprocess.Popen[str]:
    """Start a command in a session of its own; on Linux it gets a SIGTERM when this process dies."""
    parent, libc = os.getpid(), ctypes.CDLL(None)

    def exit_with_parent() -> None:
        if sys.platform == "linux":
            libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
            if os.getppid() != parent:  # the parent was killed in the meantime
                os._exit(1)

    return subprocess.Popen(  # noqa: S603 - the command given by the user
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        preexec_fn=exit_with_parent,  # safe, since no thread runs yet
        start_new_session=True,  # a Ctrl-C reaches this process alone, which forwards it once
    )  # fmt: skip


def kill(processes: list[subprocess.Popen[str]]) -> None:
    """Send SIGKILL to the process groups of all processes."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def print_lines(number: int, lines: IO[str]) -> None:
    """Print lines with the number of their process."""
    for line in lines:
        sys.stdout.write(f"[{number}] {line}")
        sys.stdout.flush()


if __name__ == "__main__":
    app.run(main)
