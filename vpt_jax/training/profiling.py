"""Profiler trace of some training steps, for xprof or Perfetto: device operations with their times."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jax

FIRST_STEP, LAST_STEP = 4, 6  # traced steps of a start: earlier ones compile and fill the buffers

StepFunction = Callable[[Any, Any], tuple[Any, Any]]


@contextmanager
def profiled(train_step: StepFunction, folder: str) -> Iterator[StepFunction]:
    """Wraps a train step so that a few calls are traced into `folder` (view with `xprof FOLDER`); "": no trace."""
    count, tracing = 0, False

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        nonlocal count, tracing
        count += 1
        if count == FIRST_STEP:
            jax.block_until_ready(state)
            jax.profiler.start_trace(folder)
            tracing = True
        result = train_step(state, batch)
        if count == LAST_STEP:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            tracing = False
        return result

    try:
        yield step if folder else train_step
    finally:
        if tracing:
            jax.profiler.stop_trace()
        if folder and count < FIRST_STEP:
            print(f"no trace: steps {FIRST_STEP} to {LAST_STEP} of a start are traced, it had {count}", flush=True)
