"""Restores signal handlers (Python's and the C library's) after a library has installed its own."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGACTION_BYTES = 1024  # enough for any system's `struct sigaction` (Linux: 152)


@contextmanager
def keep_signal_handlers(*numbers: signal.Signals) -> Iterator[None]:
    """Restore the handlers of these signals when the block ends, both Python's and those of the C library.

    JAX's preemption notifier is a handler of the C library, which `signal.getsignal` does not return. Outside the main
    thread nothing is done, since Python lets no library change a handler there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    python_handlers = {number: signal.getsignal(number) for number in numbers}
    c_handlers = {number: _get_sigaction(number) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            if python_handlers[number] is not None:  # None: not installed by Python
                signal.signal(number, python_handlers[number])
            _sigaction(number, c_handlers[number], None)


def _get_sigaction(number: signal.Signals) -> ctypes.Array:
    action = ctypes.create_string_buffer(_SIGACTION_BYTES)
    _sigaction(number, None, action)
    return action


def _sigaction(number: signal.Signals, new: ctypes.Array | None, old: ctypes.Array | None) -> None:
    if ctypes.CDLL(None, use_errno=True).sigaction(int(number), new, old):
        raise OSError(ctypes.get_errno(), f"the handler of {number.name} cannot be read or set")
