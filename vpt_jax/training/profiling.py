"""A trace of some training steps, for xprof or Perfetto: what runs on the devices when, and for how long."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

FIRST, LAST = 4, 6  # steps of a start that are traced: those before compile and fill the buffers

Step = Callable[[Any, Any], tuple[Any, Any]]


@contextmanager
def profiled(train_step: Step, folder: str) -> Iterator[Step]:
    """The same step, of which a few are traced into `folder` (look at it with `xprof FOLDER`); "": none are."""
    count, tracing = 0, False

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        nonlocal count, tracing
        count += 1
        if count == FIRST:
            jax.block_until_ready(state)
            jax.profiler.start_trace(folder)
            tracing = True
        result = train_step(state, batch)
        if count == LAST:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            tracing = False
        return result

    try:
        yield step if folder else train_step
    finally:
        if tracing:
            jax.profiler.stop_trace()
        if folder and count < FIRST:
            print(f"no trace: it would be of steps {FIRST} to {LAST} of a start, and there were {count}", flush=True)
