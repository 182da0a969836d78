"""Ends a program that is asked to stop: by Ctrl-C, SIGTERM, or SIGHUP (its terminal or connection is gone).

The first signal raises KeyboardInterrupt in the main thread, so that `finally` blocks end workers and games. A second
thread learns of it at once, also while the main thread is inside a compilation, where Python runs no signal handler: it
says what is waited for, and ends the process after a few seconds, or on a second signal. What programs write appears
whole or not at all, so the same command resumes.

A stopped program leaves by `os._exit`: XLA's threads may still compile, and crash when the interpreter is taken down
under them (SIGSEGV after all was done).
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

STATUS = 130  # exit status, as shells have it for Ctrl-C
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAY_AFTER = 0.5  # seconds
_PATIENCE = 5.0  # seconds until the process is ended from outside the main thread
_LAST_DEEDS = 1.0  # seconds
_PACKAGE = Path(__file__).parents[1]


class _State:
    """Of this process: signals are for all of it."""

    received: list[int] = []  # noqa: RUF012
    terminated_by_others = False  # a handler that `signal.getsignal` does not show deals with SIGTERM
    noting: list[Callable[[int, FrameType | None], None]] = []  # noqa: RUF012 - handlers as `noted_by` has them
    deferred = 0  # blocks that end by themselves when they are asked to


def install() -> None:
    """From now on, signals stop this process as the module says. Signals that are ignored (nohup, `&`) stay so."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    resource_tracker.ensure_running()  # Python's own, which removes what others leave, must survive the terminal too
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    listener, notified = socket.socketpair()
    notified.setblocking(False)
    signal.set_wakeup_fd(notified.detach(), warn_on_full_buffer=False)  # open for as long as the process is there
    for number in SIGNALS:
        if number == signal.SIGTERM or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _hang_up if number == signal.SIGHUP else _interrupt)
    threading.Thread(target=_watch, args=(listener,), daemon=True).start()


def leave_sigterm_to_others() -> None:
    """From now on SIGTERM is dealt with by a handler of another language, which Python does not know, and so is SIGHUP.

    JAX's is one, in a job of several processes: all of them are told, save, and end.
    """
    _State.terminated_by_others = True


@contextmanager
def deferred() -> Iterator[list[int]]:
    """Signals are noted in the list that the block gets, and do not interrupt it. It has to end by itself, soon.

    A second signal ends the process at once.
    """
    _State.deferred += 1
    try:
        yield _State.received
    finally:
        _State.deferred -= 1


@contextmanager
def noted_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """While this handler of the caller's notes signals, and sets another for the next one, others see that it waits.

    If it has not been called after half a second, since the main thread compiles, what is waited for is named, and a
    further signal ends the process.
    """
    _State.noting.append(handler)
    try:
        yield
    finally:
        _State.noting.remove(handler)


def end_children(name: str) -> None:
    """If this process was asked to stop, kills its child processes whose name begins so: nobody waits for their work.

    Whoever handles signals in another way (training, which saves) is not concerned.
    """
    for child in multiprocessing.active_children() if _State.received else ():
        if child.name.startswith(name):
            child.kill()
            child.join()


def leave(status: int) -> NoReturn:
    """Ends the process now, with its child processes, whatever other threads do."""
    for child in multiprocessing.active_children():
        with suppress(OSError, ValueError):  # it has ended, or was closed
            child.kill()
    # Semaphores, shared memory and temporary folders, which Python removes at exit; some of it may wait for others.
    finalizers = threading.Thread(target=multiprocessing.util._run_finalizers, daemon=True)  # type: ignore[attr-defined]
    finalizers.start()
    finalizers.join(_LAST_DEEDS)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(status)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _State.received.append(number)
    if len(_State.received) > 1:
        leave(STATUS)
    if not _State.deferred:
        raise KeyboardInterrupt


def _hang_up(number: int, frame: FrameType | None) -> None:
    """The same as SIGTERM, whoever handles that at the moment; after another signal it is nothing new.

    Shells and systemd send it beside other signals, so it never counts as a second one.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if _State.received or handler == signal.SIG_DFL:
        return
    if handler == _interrupt and not _State.terminated_by_others:
        _interrupt(number, frame)
    else:
        signal.raise_signal(signal.SIGTERM)


def _watch(listener: socket.socket) -> None:
    """The second thread; gets a byte for every signal, at once."""
    asked = told = False
    unnoted = 0  # a signal that the caller's handler has not been called with yet (`noted_by`)
    deadline = 0.0
    while True:
        listener.settimeout(_SAY_AFTER if asked or unnoted else None)
        try:
            number = listener.recv(1)[0]
        except TimeoutError:
            number = 0
        if unnoted and not _is_to_be_noted(unnoted):
            unnoted, told = 0, told and asked
        if not number:
            if (asked or unnoted) and not told:
                _say(f"stopping: waiting for {_at_work()}; a second Ctrl-C or SIGTERM ends it at once")
                told = True
            if asked and time.monotonic() > deadline and not _State.deferred:
                leave(STATUS)
            continue
        if _is_to_be_noted(number):
            if unnoted and told and number != signal.SIGHUP:
                leave(STATUS)
            unnoted = unnoted or number
            continue
        others = _State.terminated_by_others and number != signal.SIGINT
        if others or _handler(number) != _interrupt:
            continue  # whoever has set another handler deals with it
        if asked and number != signal.SIGHUP:
            leave(STATUS)
        if not asked:
            asked, deadline = True, time.monotonic() + _PATIENCE


def _handler(number: int) -> Any:
    return signal.getsignal(signal.SIGTERM if number == signal.SIGHUP else number)


def _is_to_be_noted(number: int) -> bool:
    """True if a handler of `noted_by` is pending for this signal, or set for the next one."""
    return _handler(number) in _State.noting


def _at_work() -> str:
    """A description of the main thread's current work."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    ours = "the main thread"
    found = False
    while frame is not None:
        file, name = frame.f_code.co_filename, frame.f_code.co_name
        if "compile" in name and f"{os.sep}jax{os.sep}" in file:
            return "a compilation"
        if not found and (_PACKAGE in Path(file).parents or f"{os.sep}launch{os.sep}" in file):
            ours, found = f"{name} ({Path(file).name})", True
        frame = frame.f_back
    return ours


def _say(text: str) -> None:
    with suppress(OSError, ValueError, AttributeError):  # nobody listens any more
        print(f"\n{text}", file=sys.stderr, flush=True)
