"""Process sandbox: one process per task, with timeout and memory limit, which may not run programs or write elsewhere.

For tasks that parse untrusted input (pages, playlists, videos): one that hangs, crashes or exhausts its memory does not
affect the others. `workers.worker_pool` is for trusted tasks: its processes run one task after the other, and all end
when one dies.
"""

import json
import multiprocessing
import os
import resource
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from vpt_jax.curation.download import landlock
from vpt_jax.system.printable import printable
from vpt_jax.system.workers import exit_with_parent

MAX_MEMORY = 4 << 30  # bytes per task


class TaskFailed(NamedTuple):
    """Result of a task that raised an exception, crashed or timed out."""

    reason: str


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[tuple],
    workers: int,
    timeout: float,
    preload: Sequence[str] = (),
    max_memory: int = MAX_MEMORY,
) -> Iterator[tuple[int, Any]]:
    """Runs `function(*task)` for every task, each in its own process; yields (number, result) in order of completion.

    The result of a failed task is a `TaskFailed`. Closing the iterator kills the running processes.

    Args:
        function: of a module; its results must be serializable as JSON.
        tasks: started in this order.
        workers: number of parallel processes.
        timeout: seconds per task.
        preload: modules that all tasks need, imported once by the fork server.
        max_memory: bytes that a task may allocate in addition to what its process starts with; enforced on Linux.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *preload])
    waiting, running = deque(enumerate(tasks)), dict[Connection, _Child]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                child = _start(context, *waiting.popleft(), function, timeout, max_memory)
                running[child.connection] = child
            next_deadline = min(child.deadline for child in running.values())
            ready = wait(list(running), max(0, next_deadline - time.monotonic()))
            now = time.monotonic()
            for connection in [
                connection for connection, child in running.items() if connection in ready or child.deadline < now
            ]:
                child = running.pop(connection)
                yield (
                    child.number,
                    child.result() if connection in ready else child.stop(f"took over {timeout:g} s"),
                )
    finally:
        for child in running.values():
            child.stop("")


@dataclass(frozen=True)
class _Child:
    """Process of a task."""

    number: int  # of the task
    process: BaseProcess
    connection: Connection  # receives the result
    deadline: float  # by time.monotonic()

    def result(self) -> Any:
        """Receives the result, or the end of the process, and stops it."""
        try:
            message = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError):  # the process ended before or during its message
            self.process.join()
            return self.stop(f"its process ended with status {self.process.exitcode}")
        self.stop("")
        return TaskFailed(message["error"]) if "error" in message else message["result"]

    def stop(self, reason: str) -> TaskFailed:
        """Kills the process and releases its resources."""
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()
        return TaskFailed(reason)


def _start(
    context: Any, number: int, task: tuple, function: Callable[..., Any], timeout: float, max_memory: int
) -> _Child:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run_task, args=(sender, function, task, max_memory))
    process.start()
    sender.close()  # so that the pipe is closed when the process ends
    return _Child(number, process, receiver, time.monotonic() + timeout)


def _run_task(sender: Connection, function: Callable[..., Any], task: tuple, max_memory: int) -> None:
    exit_with_parent()
    try:
        _limit_memory(max_memory)
        message = {"result": function(*task)}
    except Exception as error:
        message = {"error": printable(f"{type(error).__name__}: {error}", length=300)}
    sender.send_bytes(json.dumps(message).encode())


def _limit_memory(additional: int) -> None:
    """Limits the address space to its current size and `additional` bytes.

    Threads of libraries have reserved address space before, in proportion to the number of cores.
    """
    statm = Path("/proc/self/statm")
    if statm.exists():
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + additional
        _, hard = resource.getrlimit(resource.RLIMIT_AS)  # of `ulimit -v`
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


# Audit events, which Python raises before the operation (sys.addaudithook).
_PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"}
_LINKS = {"os.link", "os.symlink"}
_SIGNALS_AND_LIMITS = {"os.kill", "os.killpg", "signal.pthread_kill", "resource.setrlimit", "resource.prlimit"}
_FORBIDDEN = _PROGRAMS | _LINKS | _SIGNALS_AND_LIMITS
_CHANGES = {  # indices of the arguments: paths, and descriptors of the folders that these are relative to
    "os.mkdir": ((0,), (2,)), "os.remove": ((0,), (1,)), "os.rmdir": ((0,), (1,)), "os.truncate": ((0,), ()),
    "os.chmod": ((0,), (2,)), "os.chown": ((0,), (3,)), "os.utime": ((0,), (3,)),
    "os.rename": ((0, 1), (2, 3)),  # also raised by `os.replace`
    "os.setxattr": ((0,), ()), "os.removexattr": ((0,), ()),
}  # fmt: skip
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def confine(folder: Path | None) -> int:
    """Permanently restricts this thread and its children: no programs, and file changes in `folder` only, or nowhere.

    There are two layers of protection.

    Landlock (`landlock.py`), if the kernel has it, applies to code in any language. It forbids to run a program; to
    write, truncate, make, link, move or remove a file elsewhere; and, from its version 6 on, to send signals to other
    processes. Executed programs gain no privileges. It does not protect attributes of files (mode, owner, times,
    extended attributes).

    Python's audit hooks apply to operations for which Python raises an audit event: programs, files and their
    attributes, links, SQLite, signals, resource limits, and any use of ctypes. Without Landlock this layer is alone: it
    then also forbids `os.open` of relative paths for writing, and does not prevent the following: `multiprocessing` and
    `_posixsubprocess` start programs, `os.mkfifo` and `os.mknod` make pipes and devices, Unix sockets are bound to a
    path, and libraries in other languages write files (the key log of `ssl`, the history of `readline`, OpenCV,
    FFmpeg).

    Neither prevents reading, network access, actions of threads that were started before, or forks by code in other
    languages: RLIMIT_NPROC would, but counts all processes and threads of the user, and FFmpeg needs threads.

    Returns:
        The version of Landlock; 0 if there is none.
    """
    sys.dont_write_bytecode = True
    root = None if folder is None else os.path.realpath(folder) + os.sep

    def check(event: str, arguments: tuple) -> None:
        if event in _FORBIDDEN or event.startswith("ctypes."):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and not version and _is_relative_write(*arguments):
            raise PermissionError("os.open of a relative path for writing is not allowed here")
        for path in _written_paths(event, arguments):
            if not (root and os.path.realpath(path).startswith(root)):
                raise PermissionError(f"writing to {path!r} is not allowed here")

    version = landlock.restrict(folder)
    sys.addaudithook(check)
    return version


def _written_paths(event: str, arguments: tuple) -> list[str]:
    """The paths that an audited operation would change, without those of open file descriptors."""
    if event == "open" and arguments[2] & _WRITE_FLAGS and arguments[0] != os.devnull:
        return _paths(arguments[:1])
    if event == "sqlite3.connect":
        paths = [path for path in _paths(arguments[:1]) if path != ":memory:"]
        if any(path.startswith("file:") for path in paths):
            raise PermissionError("sqlite3.connect to a URI is not allowed here")
        return paths
    path_indices, folder_indices = _CHANGES.get(event, ((), ()))
    if any(arguments[index] != -1 for index in folder_indices):
        raise PermissionError(f"{event} relative to a folder descriptor is not allowed here")
    return _paths(arguments[index] for index in path_indices)


def _is_relative_write(path: Any, mode: str | None, flags: int) -> bool:
    """True if `os.open` writes to a relative path; the audit event lacks the folder (`dir_fd`) it is relative to."""
    return mode is None and bool(flags & _WRITE_FLAGS) and not all(map(os.path.isabs, _paths([path])))


def _paths(values: Iterable[Any]) -> list[str]:
    return [os.fsdecode(value) for value in values if not isinstance(value, int)]
