"""Worker processes: a process pool that ends with its parent, a lock on the output folder (flock), a progress bar."""

import fcntl
import multiprocessing
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vpt_jax.system.cores import available_cores
from vpt_jax.system.errors import UserError
from vpt_jax.system.paths import local_path
from vpt_jax.system.stopping import SIGNALS


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of freshly spawned processes; `workers` 0: one per core that this process may use (`cores.py`).

    Leaving the block drops tasks that have not started. An exception (Ctrl-C, SIGTERM) kills the workers in the middle
    of their tasks: a task must write its result atomically.
    """
    context = _WorkerContext()
    pool = ProcessPoolExecutor(workers or available_cores(), context, initializer=exit_with_parent)
    try:
        yield pool
    except BaseException:
        context.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


class _Worker(SpawnProcess):
    """A spawned process that blocks the parent's signals until `exit_with_parent`, so also during its imports."""

    def start(self) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the child inherits the mask
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _WorkerContext(SpawnContext):
    """A multiprocessing context that keeps its processes, to kill them."""

    def __init__(self) -> None:
        self._processes: list[_Worker] = []

    def Process(self, *args: Any, **options: Any) -> _Worker:  # type: ignore[override]  # noqa: N802
        self._processes.append(_Worker(*args, **options))
        return self._processes[-1]

    def kill(self) -> None:
        for process in self._processes:
            if process.pid is not None:
                process.kill()


# Runs `function(*task)` for every task, and yields each task's index and result in order of completion.
TaskRunner = Callable[[Callable[..., Any], Sequence[tuple]], Iterator[tuple[int, Any]]]


@contextmanager
def process_runner(
    workers: int, error_class: type[UserError], in_progress: Callable[[], str] = str
) -> Iterator[TaskRunner]:
    """A `TaskRunner` on a pool of processes, with the errors of `task_result`.

    Args:
        workers: as of `worker_pool`.
        error_class: raised if a worker process has died.
        in_progress: called then, to name the inputs that were being processed; "": unknown.
    """
    with worker_pool(workers) as pool:

        def run(function: Callable[..., Any], tasks: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
            futures = {pool.submit(function, *task): number for number, task in enumerate(tasks)}
            for future in as_completed(futures):
                source = f"{function.__name__} of {tasks[futures[future]][0]}"
                yield futures[future], task_result(future, source, error_class, in_progress)

        yield run


def task_result(
    future: Future, source: object, error_class: type[UserError], in_progress: Callable[[], str] = str
) -> Any:
    """Returns the result of a worker's task.

    Args:
        future: of the task.
        source: the task or its input, for the message.
        error_class: raised if a worker process has died.
        in_progress: called then, to name the inputs that were being processed; "": unknown.

    Raises:
        UserError: of `error_class`, with the remedy. The task's own errors get a note that names `source`.
    """
    try:
        return future.result()
    except BrokenProcessPool:
        raise error_class(
            f"a worker process died, out of memory or at one of its inputs ({in_progress() or f'such as {source}'}). "
            "Finished work is kept: run the same command again, with a smaller --config.workers or without that input"
        ) from None
    except Exception as error:
        error.add_note(f"at {source}; finished work is kept: run the same command again to resume")
        raise


def temporary_path(path: Path) -> Path:
    """A temporary name next to `path`, for an atomic rename: unique per call, across processes and machines."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:12]}.writing")


def exit_with_parent() -> None:
    """Initialize a worker: it exits when its parent does, and not on a signal that the parent should handle.

    Terminals and schedulers send signals to all processes of a job.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP):  # not SIG_IGN, which processes that the worker starts would inherit
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_wait_for_parent_exit, daemon=True).start()


def _wait_for_parent_exit() -> None:
    multiprocessing.parent_process().join()  # type: ignore[union-attr]
    os._exit(1)  # the parent was killed: otherwise the worker would wait for tasks forever


class FolderInUseError(UserError, RuntimeError):
    """A folder is locked by another run, or holds something else; the message says which."""


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[int]:
    """Create a folder and lock it exclusively (flock) against a second run; the lock is released when the process ends.

    The lock belongs to the file descriptor, which the block gets: a process that inherits it holds the lock as well.

    Args:
        folder: the folder to lock.
        wait: wait until the lock is free instead of raising.

    Raises:
        FolderInUseError: another process holds the lock, and `wait` is False.
        RemotePathError: `folder` is a URL.
    """
    local_path(folder, "the folder")
    while (descriptor := _lock(folder, wait)) is None:
        pass
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(folder: Path, wait: bool) -> int | None:
    """A locked descriptor of the folder; None if the run that held the lock before has removed the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        if _is_at(descriptor, folder):
            return descriptor
    except BlockingIOError:
        os.close(descriptor)
        raise FolderInUseError(f"another run is working on {folder}: wait until it has finished") from None
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _is_at(descriptor: int, folder: Path) -> bool:
    """True if the open folder is the one at this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), folder.stat())
    except FileNotFoundError:
        return False


def progress_bar(total: int, **options: Any) -> tqdm:
    """A tqdm bar with rate and remaining time; without a terminal, one line every ten seconds."""
    if not sys.stderr.isatty():  # `position`: a bar within another one would move the cursor
        options |= dict(file=_LogLines(), mininterval=10, position=0)
    return tqdm(total=total, **options)


class _LogLines:
    """A stream that writes the redraws of a progress bar as separate lines, for output that is not a terminal."""

    last = ""

    def write(self, text: str) -> None:
        if (line := text.strip()) and line != self.last:
            print(line, file=sys.stderr)
            self.last = line

    def flush(self) -> None:
        sys.stderr.flush()
