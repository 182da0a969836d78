"""Start a training job as several processes of this machine, as `torchrun` does.

    python launch/pods/local.py --processes=4 -- launch/train.py --config=configs/foundation.py:71m ...

Every line is printed with its process's number. SIGTERM and Ctrl-C reach all of them; if one fails, all are stopped.
With --dry_run the commands are printed only.
"""

import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import IO

from absl import app, flags

_PROCESSES = flags.DEFINE_integer("processes", 2, "How many.", lower_bound=1)
_PORT = flags.DEFINE_integer("port", 0, "Where process 0 waits for the others; 0: whatever is free.")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the commands only.")
_POLL = 0.1  # seconds


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
    """Runs all side by side; the first exit status that is not 0, if there is one."""
    processes: list[subprocess.Popen[str]] = []
    for received in (signal.SIGTERM, signal.SIGINT):  # training saves and ends on SIGTERM
        signal.signal(received, lambda *_: terminate(processes))
    readers = []
    for number, command in enumerate(commands):
        process = subprocess.Popen(  # noqa: S603 - what the user asks for
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True,  # a Ctrl-C reaches this process alone, which passes it on once
        )  # fmt: skip
        processes.append(process)
        readers.append(threading.Thread(target=show, args=(number, process.stdout)))
        readers[-1].start()
    while None in (codes := [process.poll() for process in processes]):
        if any(codes):
            terminate(processes)
        time.sleep(_POLL)
    for reader in readers:
        reader.join()
    return next((code for code in codes if code), 0)


def show(number: int, lines: IO[str]) -> None:
    for line in lines:
        sys.stdout.write(f"[{number}] {line}")
        sys.stdout.flush()


def terminate(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()


if __name__ == "__main__":
    app.run(main)
