"""Signal handlers of Python and of the C library are kept (scale row 7)."""

import ctypes
import signal
import threading

import pytest

from vpt_jax.system.signals import keep_signal_handlers

NUMBER = signal.SIGUSR1


@pytest.fixture
def received():
    """Signals that the handler of this test has received."""
    numbers = []
    before = signal.signal(NUMBER, lambda number, frame: numbers.append(number))
    yield numbers
    signal.signal(NUMBER, before)


def exit_at_once(number, frame):
    raise SystemExit(number)


def test_a_handler_of_python_is_kept(received):
    with keep_signal_handlers(NUMBER):
        signal.signal(NUMBER, exit_at_once)
    signal.raise_signal(NUMBER)
    assert received == [NUMBER]


def test_a_handler_is_kept_after_an_error(received):
    def join():
        with keep_signal_handlers(NUMBER):
            signal.signal(NUMBER, exit_at_once)
            raise ConnectionError

    with pytest.raises(ConnectionError):
        join()
    signal.raise_signal(NUMBER)
    assert received == [NUMBER]


def test_a_handler_of_the_c_library_is_kept(received):
    """Python cannot query such a handler; JAX's preemption notifier is one."""
    received_in_c = []
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(received_in_c.append)
    library = ctypes.CDLL(None)
    library.signal.restype, library.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    library.signal(NUMBER, ctypes.cast(handler, ctypes.c_void_p))
    with keep_signal_handlers(NUMBER):
        signal.signal(NUMBER, exit_at_once)
    signal.raise_signal(NUMBER)
    assert (received_in_c, received) == ([NUMBER], [])


def test_another_thread_changes_nothing(received):
    def enter():
        with keep_signal_handlers(NUMBER):
            pass

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    signal.raise_signal(NUMBER)
    assert received == [NUMBER]
