"""Signal handlers that outlive a library which installs its own."""

import ctypes
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SIGACTION_BYTES = 1024  # room for any system's `struct sigaction` (Linux: 152)


@contextmanager
def keep_signal_handlers(*numbers: signal.Signals) -> Iterator[None]:
    """Restore the handlers of these signals when the block ends, Python's and those of the C library both.

    JAX's notifier of preemptions is a handler of the C library, which `signal.getsignal` does not see. Outside the main
    thread nothing is done, since Python lets no library change a handler there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    of_python = {number: signal.getsignal(number) for number in numbers}
    of_library = {number: _action(number) for number in numbers}
    try:
        yield
    finally:
        for number in numbers:
            if of_python[number] is not None:  # None: not Python's
                signal.signal(number, of_python[number])
            _sigaction(number, of_library[number], None)


def _action(number: signal.Signals) -> ctypes.Array:
    action = ctypes.create_string_buffer(_SIGACTION_BYTES)
    _sigaction(number, None, action)
    return action


def _sigaction(number: signal.Signals, new: ctypes.Array | None, old: ctypes.Array | None) -> None:
    if ctypes.CDLL(None, use_errno=True).sigaction(int(number), new, old):
        raise OSError(ctypes.get_errno(), f"no handler of {number.name} can be read or set")
