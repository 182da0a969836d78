"""Watchdog timer for hanging steps: past the limit, the stacks of all threads are printed and the process ends.

A collective operation waits for all hosts. If one of them is stuck, so are the others, without any error: only when the
process ends can the scheduler start the job again.
"""

import faulthandler
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def hang_limit(minutes: float) -> Iterator[Callable[[], None]]:
    """Context manager that yields a heartbeat function; the time between two of its calls is limited to `minutes`.

    Past the limit the process ends with status 1, by a native thread that does not need the GIL. There is no limit
    before the first call, nor if `minutes` is 0.
    """
    if not minutes:
        yield lambda: None
        return
    try:
        yield lambda: faulthandler.dump_traceback_later(60 * minutes, exit=True)
    finally:
        faulthandler.cancel_dump_traceback_later()
