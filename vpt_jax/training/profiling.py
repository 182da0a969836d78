"""A trace of some training steps, for xprof or Perfetto: what runs on the devices when, and for how long."""

from collections.abc import Callable
from typing import Any

import jax

FIRST, LAST = 4, 6  # steps of a start that are traced: those before compile and fill the buffers


def profiled(train_step: Callable[[Any, Any], tuple[Any, Any]], folder: str) -> Callable[[Any, Any], tuple[Any, Any]]:
    """The same step, of which a few are traced into `folder` (look at it with `xprof FOLDER`)."""
    count = 0

    def step(state: Any, batch: Any) -> tuple[Any, Any]:
        nonlocal count
        count += 1
        if count == FIRST:
            jax.block_until_ready(state)
            jax.profiler.start_trace(folder)
        result = train_step(state, batch)
        if count == LAST:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
        return result

    return step
