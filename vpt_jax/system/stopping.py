"""Graceful shutdown on Ctrl-C (SIGINT), SIGTERM, and SIGHUP (the terminal or connection is lost).

The first signal raises KeyboardInterrupt in the main thread, so that `finally` blocks end workers and games. A watcher
thread is notified immediately (`signal.set_wakeup_fd`), also while the main thread is inside a compilation, where
Python runs no signal handler: it prints what the program is waiting for, and ends the process after a grace period of a
few seconds, or on a second signal. Programs write their files atomically, so the same command resumes.

A stopped program exits by `os._exit`: XLA's threads may still be compiling, and crash when the interpreter is torn down
under them (SIGSEGV after all work was done).
"""

import multiprocessing
import multiprocessing.util
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

EXIT_STATUS = 130  # as shells report for Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MESSAGE_DELAY = 0.5  # seconds
_GRACE_SECONDS = 5.0  # until the watcher thread ends the process
_FINALIZER_TIMEOUT = 1.0  # seconds
_PACKAGE = Path(__file__).parents[1]


class _State:
    """Signal state of this process; signals concern all of its threads."""

    received: list[int] = []  # noqa: RUF012
    sigterm_delegated = False  # a handler that `signal.getsignal` does not return handles SIGTERM
    registered: list[Callable[[int, FrameType | None], None]] = []  # noqa: RUF012 - handlers of `registered_handler`
    deferred = 0  # number of active `deferred` blocks


def install() -> None:
    """Install the signal handlers and the watcher thread. Signals that are ignored (nohup, `&`) stay ignored."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()  # Python's cleanup process must survive the loss of the terminal as well
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    listener, notifier = socket.socketpair()
    notifier.setblocking(False)
    signal.set_wakeup_fd(notifier.detach(), warn_on_full_buffer=False)  # stays open until the process ends
    for number in SIGNALS:
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _handle_sighup if number == signal.SIGHUP else _interrupt)
    threading.Thread(target=_watch, args=(listener,), daemon=True).start()


def delegate_sigterm() -> None:
    """Leave SIGTERM, and SIGHUP with it, to a native handler that Python cannot query.

    JAX's preemption notifier is such a handler, in a job of several processes: all of them are notified, save, and end.
    """
    _State.sigterm_delegated = True


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Record signals in the yielded list instead of interrupting the block, which has to end by itself soon.

    A second signal ends the process immediately.
    """
    _State.deferred += 1
    try:
        yield _State.received
    finally:
        _State.deferred -= 1


@contextmanager
def registered_handler(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Tell the watcher thread that the caller's own `handler` records signals, and installs another for the next one.

    If the handler has not been called half a second after a signal, since the main thread is compiling, the watcher
    prints what the program is waiting for, and a further signal ends the process.
    """
    _State.registered.append(handler)
    try:
        yield
    finally:
        _State.registered.remove(handler)


def kill_children(name: str) -> None:
    """Kill child processes whose name starts with `name`, if this process was asked to stop: their work is discarded.

    Processes that handle signals in another way (training, which saves first) are not affected.
    """
    for child in multiprocessing.active_children() if _State.received else ():
        if child.name.startswith(name):
            child.kill()
            child.join()


def exit_now(status: int) -> NoReturn:
    """End the process immediately, with its child processes, whatever other threads do (`os._exit`)."""
    for child in multiprocessing.active_children():
        with suppress(OSError, ValueError):  # it has ended, or was closed
            child.kill()
    # Semaphores, shared memory and temporary folders, which Python removes at exit; some finalizers may block.
    finalizers = threading.Thread(target=multiprocessing.util._run_finalizers, daemon=True)  # type: ignore[attr-defined]
    finalizers.start()
    finalizers.join(_FINALIZER_TIMEOUT)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _State.received.append(number)
    if len(_State.received) > 1:
        exit_now(EXIT_STATUS)
    if not _State.deferred:
        raise KeyboardInterrupt


def _handle_sighup(number: int, frame: FrameType | None) -> None:
    """Treat SIGHUP as SIGTERM, by the current handler of SIGTERM; ignore it after another signal.

    Shells and systemd send SIGHUP along with other signals, so it never counts as a second one.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if _State.received or handler == signal.SIG_DFL:
        return
    if handler == _interrupt and not _State.sigterm_delegated:
        _interrupt(number, frame)
    else:
        signal.raise_signal(signal.SIGTERM)


def _watch(listener: socket.socket) -> None:
    """Watcher thread: receives one byte per signal, immediately, from the wakeup file descriptor."""
    stopping = message_printed = False
    pending = 0  # a signal for which the registered handler has not been called yet (`registered_handler`)
    deadline = 0.0
    while True:
        listener.settimeout(_MESSAGE_DELAY if stopping or pending else None)
        try:
            number = listener.recv(1)[0]
        except TimeoutError:
            number = 0
        if pending and not _has_registered_handler(pending):
            pending, message_printed = 0, message_printed and stopping
        if not number:
            if (stopping or pending) and not message_printed:
                _print_message(f"stopping: waiting for {_current_work()}; a second Ctrl-C or SIGTERM ends it at once")
                message_printed = True
            if stopping and time.monotonic() > deadline and not _State.deferred:
                exit_now(EXIT_STATUS)
            continue
        if _has_registered_handler(number):
            if pending and message_printed and number != signal.SIGHUP:
                exit_now(EXIT_STATUS)
            pending = pending or number
            continue
        delegated = _State.sigterm_delegated and number != signal.SIGINT
        if delegated or _handler(number) != _interrupt:
            continue  # another handler is responsible
        if stopping and number != signal.SIGHUP:
            exit_now(EXIT_STATUS)
        if not stopping:
            stopping, deadline = True, time.monotonic() + _GRACE_SECONDS


def _handler(number: int) -> Any:
    return signal.getsignal(signal.SIGTERM if number == signal.SIGHUP else number)


def _has_registered_handler(number: int) -> bool:
    """True if the current handler of this signal was announced by `registered_handler`, so its call is pending."""
    return _handler(number) in _State.registered


def _current_work() -> str:
    """A description of the main thread's current work, from its stack frames."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    description = "the main thread"
    found = False
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if "compile" in name and f"{os.sep}jax{os.sep}" in file:
            return "a compilation"
        if not found and (_PACKAGE in Path(file).parents or f"{os.sep}launch{os.sep}" in file):
            description, found = f"{name} ({Path(file).name})", True
        frame = frame.f_back
    return description


def _print_message(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # stderr may be closed
        print(f"\n{text}", file=sys.stderr, flush=True)
