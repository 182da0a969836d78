"""Long jobs in worker processes: a pool that ends with its parent, a lock on the output folder, a progress bar."""

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vpt_jax.system.cores import available_cores
from vpt_jax.system.paths import local_path
from vpt_jax.system.stopping import SIGNALS


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of freshly started processes, 0 meaning one per core that this process may use (`cores.py`).

    Leaving the block drops what has not begun. An exception (Ctrl-C, SIGTERM) kills the workers amid their tasks: a
    task must leave its result whole or not at all.
    """
    context = _WorkerContext()
    pool = ProcessPoolExecutor(workers or available_cores(), context, initializer=end_with_parent)
    try:
        yield pool
    except BaseException:
        context.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker(SpawnProcess):
    """Signals that its parent should deal with are held back until `end_with_parent`, so also while it imports."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # which the child inherits
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _WorkerContext(SpawnContext):
    """Knows the processes that it has made."""

    def __init__(self) -> None:
        self._made: list[_Worker] = []

    def Process(self, *args: Any, **options: Any) -> _Worker:  # type: ignore[override]  # noqa: N802
        self._made.append(_Worker(*args, **options))
        return self._made[-1]

    def kill(self) -> None:
        for process in self._made:
            if process.pid is not None:
                process.kill()


# What runs `function(*task)` for every task, somewhere, and gives each task's number and result as they come.
Run = Callable[[Callable[..., Any], Sequence[tuple]], Iterator[tuple[int, Any]]]


@contextmanager
def in_processes(workers: int) -> Iterator[Run]:
    """Tasks are run by a pool of processes. An error of a task is raised with a note that says which."""
    with worker_pool(workers) as pool:

        def run(function: Callable[..., Any], tasks: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
            futures = {pool.submit(function, *task): number for number, task in enumerate(tasks)}
            for future in as_completed(futures):
                try:
                    yield futures[future], future.result()
                except BrokenProcessPool:
                    raise
                except Exception as error:
                    what = f"{function.__name__} of {tasks[futures[future]][0]}"
                    error.add_note(f"in {what}; what is done is kept, run the same command to go on")
                    raise

        yield run


def unique_name(path: Path) -> Path:
    """Where to write what is then renamed to `path`: another one in every call, of any process on any machine."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.writing")


def end_with_parent() -> None:
    """Called in a worker: it ends when its parent does, and not by a signal that the parent should deal with.

    Terminals and schedulers send signals to all processes of a job.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):  # not ignored: what the worker starts would inherit that
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_wait_for_parents_end, daemon=True).start()


def _wait_for_parents_end() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(1)  # the parent was killed: without this the worker would wait for work for ever


class FolderInUseError(RuntimeError):
    """Another run, or something of another kind, holds a folder; the message says which."""


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[int]:
    """Makes a folder and keeps a second run off it; the lock goes with the process, however that ends.

    It is the descriptor that is locked, which the block gets: a process that inherits it holds the folder as well.

    Raises:
        FolderInUseError: another process holds the folder, and this one is not to wait for it.
        RemotePathError: it is an address, not a folder.
    """
    local_path(folder, "the folder")
    while (handle := _lock(folder, wait)) is None:
        pass
    try:
        yield handle
    finally:
        os.close(handle)


def _lock(folder: Path, wait: bool) -> int | None:
    """A locked descriptor of the folder; None if the run that held it before has removed the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if _is_at(handle, folder):
            return handle
    except BlockingIOError:
        os.close(handle)
        raise FolderInUseError(f"another run is working on {folder}: wait until it has finished") from None
    except BaseException:
        os.close(handle)
        raise
    os.close(handle)
    return None


def _is_at(handle: int, folder: Path) -> bool:
    """True if the open folder is the one that has this path."""
    try:
        return os.path.samestat(os.fstat(handle), folder.stat())
    except FileNotFoundError:
        return False


def progress_bar(total: int, **options: Any) -> tqdm:
    """A tqdm bar with rate and time left; where there is no terminal, a line every ten seconds."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total, file=None if terminal else _LogLines(), mininterval=0.1 if terminal else 10, **options
    )  # fmt: skip


class _LogLines:
    """Where there is no terminal, a bar's redraws become lines of their own."""

    last = ""

    def write(self, text: str) -> None:
        if (line := text.strip()) and line != self.last:
            print(line, file=sys.stderr)
            self.last = line

    def flush(self) -> None:
        sys.stderr.flush()
