"""A process for each task: one that hangs, dies or eats memory costs its task alone, and may run and write little.

What strangers wrote is read here: pages, playlists, films. `workers.worker_pool` is for work that does not go wrong:
its processes take one task after the other, and all end when one dies.
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
from vpt_jax.system.workers import end_with_parent

MEMORY = 4 << 30  # bytes that a task may take


class Lost(NamedTuple):
    """In place of the result of a task that has none."""

    reason: str


def run(
    function: Callable[..., Any],
    tasks: Sequence[tuple],
    workers: int,
    seconds: float,
    libraries: Sequence[str] = (),
    memory: int = MEMORY,
) -> Iterator[tuple[int, Any]]:
    """Runs `function(*task)` for every task, each in a process of its own, and gives number and result as they come.

    Leaving the iterator ends the processes that still work.

    Args:
        function: of a module; its results can be written as JSON.
        tasks: begun in this order.
        workers: processes at a time.
        seconds: that a task may take.
        libraries: modules that all tasks need, imported once.
        memory: bytes that a task may take beyond what its process begins with; kept to on Linux.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, *libraries])
    waiting, running = deque(enumerate(tasks)), dict[Connection, _Child]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                child = _start(context, *waiting.popleft(), function, seconds, memory)
                running[child.answers] = child
            next_end = min(child.deadline for child in running.values())
            answered = wait(list(running), max(0, next_end - time.monotonic()))
            now = time.monotonic()
            for answers in [
                answers for answers, child in running.items() if answers in answered or child.deadline < now
            ]:
                child = running.pop(answers)
                yield child.number, child.result() if answers in answered else child.stop(f"took over {seconds:g} s")
    finally:
        for child in running.values():
            child.stop("")


@dataclass(frozen=True)
class _Child:
    number: int  # of its task
    process: BaseProcess
    answers: Connection
    deadline: float  # by time.monotonic()

    def result(self) -> Any:
        try:
            answer = json.loads(self.answers.recv_bytes())
        except (EOFError, OSError):  # before an answer, or amid it
            self.process.join()
            return self.stop(f"its process ended with status {self.process.exitcode}")
        self.stop("")
        return Lost(answer["lost"]) if "lost" in answer else answer["result"]

    def stop(self, reason: str) -> Lost:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.answers.close()
        return Lost(reason)


def _start(context: Any, number: int, task: tuple, function: Callable[..., Any], seconds: float, memory: int) -> _Child:
    answers, answer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(answer, function, task, memory))
    process.start()
    answer.close()  # so that the end of the process is the end of the pipe
    return _Child(number, process, answers, time.monotonic() + seconds)


def _work(answer: Connection, function: Callable[..., Any], task: tuple, memory: int) -> None:
    end_with_parent()
    try:
        _limit_memory(memory)
        message = {"result": function(*task)}
    except Exception as error:
        message = {"lost": printable(f"{type(error).__name__}: {error}", length=300)}
    answer.send_bytes(json.dumps(message).encode())


def _limit_memory(more: int) -> None:
    """Threads of libraries have reserved address space before, as much as the machine has cores."""
    size = Path("/proc/self/statm")
    if size.exists():
        limit = int(size.read_text().split()[0]) * resource.getpagesize() + more
        _, hard = resource.getrlimit(resource.RLIMIT_AS)  # of `ulimit -v`
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


# What Python announces before it does it (sys.addaudithook).
_PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"}
_LINKS = {"os.link", "os.symlink"}
_SIGNALS_AND_LIMITS = {"os.kill", "os.killpg", "signal.pthread_kill", "resource.setrlimit", "resource.prlimit"}
_FORBIDDEN = _PROGRAMS | _LINKS | _SIGNALS_AND_LIMITS
_CHANGES = {  # the numbers of arguments: paths, descriptors of the folders that these are seen from
    "os.mkdir": ((0,), (2,)), "os.remove": ((0,), (1,)), "os.rmdir": ((0,), (1,)), "os.truncate": ((0,), ()),
    "os.chmod": ((0,), (2,)), "os.chown": ((0,), (3,)), "os.utime": ((0,), (3,)),
    "os.rename": ((0, 1), (2, 3)),  # of `replace` too
    "os.setxattr": ((0,), ()), "os.removexattr": ((0,), ()),
}  # fmt: skip
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


def confine(folder: Path | None) -> int:
    """From now on this thread starts no program, and makes, changes and removes files in `folder` alone, or nowhere.

    For good, and for the threads that it starts. There are two lines.

    The kernel, where it has Landlock (`landlock.py`), refuses whoever asks, in whatever language: to run a program; to
    write, truncate, make, link, move or remove a file elsewhere; from its version 6 on, to send signals to other
    processes. A program is given no privileges that this process lacks. Attributes of files (mode, owner, times,
    extended attributes) it does not protect.

    Python's audit hooks refuse what Python code asks for as far as Python announces it: programs, files and their
    attributes, links, SQLite, signals, limits of resources, and any use of ctypes. Without Landlock this line is alone:
    it then refuses `os.open` of relative paths for writing as well, and the following is not stopped: `multiprocessing`
    and `_posixsubprocess` start programs, `os.mkfifo` and `os.mknod` make pipes and devices, sockets of Unix get a
    name, and libraries in other languages write files (the key log of `ssl`, the history of `readline`, OpenCV,
    FFmpeg).

    Neither stops reading, the network, threads that ran before, or a process that forks by means of other languages:
    RLIMIT_NPROC would, but counts all processes and threads of the user, which FFmpeg needs.

    Returns:
        The version of Landlock; 0: there is none.
    """
    sys.dont_write_bytecode = True
    root = None if folder is None else os.path.realpath(folder) + os.sep

    def check(event: str, arguments: tuple) -> None:
        if event in _FORBIDDEN or event.startswith("ctypes."):
            raise PermissionError(f"{event} is not allowed here")
        if event == "open" and not version and _may_be_elsewhere(*arguments):
            raise PermissionError("os.open of a relative path for writing is not allowed here")
        for path in _written(event, arguments):
            if not (root and os.path.realpath(path).startswith(root)):
                raise PermissionError(f"nothing may be written to {path!r}")

    version = landlock.restrict(folder)
    sys.addaudithook(check)
    return version


def _written(event: str, arguments: tuple) -> list[str]:
    """The paths that an event would change, other than files that are open."""
    if event == "open" and arguments[2] & _WRITES and arguments[0] != os.devnull:
        return _named(arguments[:1])
    if event == "sqlite3.connect":
        paths = [path for path in _named(arguments[:1]) if path != ":memory:"]
        if any(path.startswith("file:") for path in paths):
            raise PermissionError("sqlite3.connect of an address is not allowed here")
        return paths
    places, folders = _CHANGES.get(event, ((), ()))
    if any(arguments[number] != -1 for number in folders):
        raise PermissionError(f"{event} from another folder is not allowed here")
    return _named(arguments[number] for number in places)


def _may_be_elsewhere(path: Any, mode: str | None, flags: int) -> bool:
    """True if `os.open` writes to a relative path: it may be seen from another folder, which Python does not tell."""
    return mode is None and bool(flags & _WRITES) and not all(map(os.path.isabs, _named([path])))


def _named(paths: Iterable[Any]) -> list[str]:
    return [os.fsdecode(path) for path in paths if not isinstance(path, int)]
