"""A limit to how long a step may hang: past it, the stacks of all threads are printed and the process ends.

A collective operation waits for all hosts. If one of them is stuck, so are the others, and nothing says so: only an end
lets the scheduler start the job again.
"""

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def hang_limit(minutes: float) -> Iterator[Callable[[], None]]:
    """Give a function to call after everything that is done: the time until its next call is limited.

    Past the limit the process ends with status 1, by a thread that needs no Python. Nothing is limited before the first
    call, nor if `minutes` is 0.
    """
    if not minutes:
        yield lambda: None
        return
    try:
        yield lambda: faulthandler.dump_traceback_later(60 * minutes, exit=True)
    finally:
        faulthandler.cancel_dump_traceback_later()
