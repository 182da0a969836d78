"""The loop: draw a batch, step, log the step before, evaluate, save. It stops cleanly and resumes exactly."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from types import FrameType
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from vpt_jax.system import stopping
from vpt_jax.training.checkpoints import Checkpoints
from vpt_jax.training.goodput import Goodput
from vpt_jax.training.hang import hang_limit
from vpt_jax.training.metrics_log import MetricsLog, Progress
from vpt_jax.training.state import Metrics, State


class NonFiniteLossError(FloatingPointError):
    """The loss or another figure became NaN or infinite; the message names it, the step and the episodes."""


class StopSignal:
    """Whether the run was asked to stop, by SIGTERM or, in a job of one process, Ctrl-C; a context manager.

    All hosts get the same answer. While the main thread compiles, and cannot notice, `stopping.noted_by` speaks for it.
    """

    def __init__(self) -> None:
        self.received = False
        self._asked = 0  # times
        self._before: dict[int, Any] = {}
        self._watched = ExitStack()

    def __enter__(self) -> Self:
        if jax.process_count() == 1:  # with several, JAX's own handler tells the other hosts
            numbers = (signal.SIGTERM, signal.SIGINT)
            self._before = {number: signal.signal(number, self._receive) for number in numbers}
            self._watched.enter_context(stopping.noted_by(self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        self._watched.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the run at once

    def __call__(self) -> bool:
        """Asked after every step, and where else a run can stop; all hosts must ask as often."""
        self._asked += 1
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(self._asked):
            self.received = True
        return self.received


@dataclass(frozen=True)
class Schedule:
    """How long to train, and what to do every so many steps; evaluation and saving also happen at the end."""

    steps: int
    log_every: int
    evaluate_every: int
    save_every: int

    def is_due(self, every: int, step: int) -> bool:
        """Whether something done every so many steps is done after this one."""
        return step % every == 0 or step == self.steps


def run(
    state: State,
    *,
    schedule: Schedule,
    train_step: Callable[[State, Any], tuple[State, Metrics]],
    batches: Iterator[Any],
    stop: StopSignal,
    evaluate: Callable[[Any], dict[str, float]] | None,
    episodes: Callable[[int], list[str]],
    checkpoints: Checkpoints,
    log: MetricsLog,
    progress: Progress,
    goodput: Goodput,
    hang_minutes: float = 0.0,
) -> State:
    """Trains from `state.step` to the end of the schedule, or until told to stop.

    The order matters: figures of a step are written before its checkpoint, and the checkpoint before the next batch is
    drawn, so that wherever a run is killed, resuming repeats what is not in the checkpoint and nothing else. A step's
    loss is looked at while the next one runs, so that the device never waits; only saving and evaluating wait for it.
    Batches may end before the schedule does: those that take long, when asked to `stop`. A step, an evaluation or a
    save that takes more than `hang_minutes` (0: no limit) ends the process with status 1; compiling the step may take
    longer, compiling the evaluation may not.
    """
    latest = _Latest(schedule, episodes, log, progress, goodput)
    saved = done = int(state.step)

    def look() -> None:
        """Evaluates."""
        if evaluate is None:
            return
        with goodput.spent("step"):
            latest.settle()
        began = time.monotonic()
        with goodput.spent("evaluation"):
            figures = evaluate(state.params)
        log.write(done, figures)
        progress.evaluated(done, figures, time.monotonic() - began)

    def save() -> None:
        nonlocal saved
        with goodput.spent("step"):
            latest.settle()
        with goodput.spent("checkpoint"):
            checkpoints.save(state, done)
        saved = done

    with closing(checkpoints), closing(progress), closing(log), hang_limit(hang_minutes) as is_alive:
        while done < schedule.steps and not stop.received:
            batch = _draw(batches, latest.is_running, progress, goodput)
            if batch is None:
                break
            with goodput.spent("step"):
                state, metrics = train_step(state, batch)
                latest.settle()
            done += 1
            is_alive()
            latest.take(done, metrics)
            stop()
            if schedule.is_due(schedule.evaluate_every, done):
                look()
                is_alive()
            if schedule.is_due(schedule.save_every, done):
                save()
                is_alive()
        if stop.received:
            progress.say(f"asked to stop after step {done}; the same command goes on from there")
            if saved < done:
                save()
        with goodput.spent("checkpoint"):
            checkpoints.wait()
        goodput.note(done)
        progress.say(str(goodput))
    return state


class _Latest:
    """The figures of the last step, which are looked at while the next one runs."""

    def __init__(
        self,
        schedule: Schedule,
        episodes: Callable[[int], list[str]],
        log: MetricsLog,
        progress: Progress,
        goodput: Goodput,
    ):
        self._schedule, self._episodes, self._log, self._progress = schedule, episodes, log, progress
        self._goodput, self._step = goodput, 0
        self._metrics: Metrics | None = None

    def take(self, step: int, metrics: Metrics) -> None:
        """Those of a step that has been started."""
        self._step, self._metrics = step, metrics

    def is_running(self) -> bool:
        """Whether the devices are still at it."""
        return self._metrics is not None and not self._metrics["loss"].is_ready()

    def settle(self) -> None:
        """Looks at them, once."""
        if self._metrics is not None:
            _report(self._step, self._metrics, self._schedule, self._episodes, self._log, self._progress)
            if self._schedule.is_due(self._schedule.log_every, self._step):
                self._log.show(self._step, self._goodput.note(self._step))
        self._metrics = None


def _draw(batches: Iterator[Any], is_running: Callable[[], bool], progress: Progress, goodput: Goodput) -> Any:
    """The next batch, if there is one. Waiting for it is a loss only if the devices have nothing else to do."""
    asked = time.monotonic()
    batch = next(batches, None)
    seconds = time.monotonic() - asked
    busy = is_running()
    progress.waited(0.0 if busy else seconds)
    goodput.add("step" if busy else "input", seconds)
    return batch


def _report(
    step: int,
    metrics: Metrics,
    schedule: Schedule,
    episodes: Callable[[int], list[str]],
    log: MetricsLog,
    progress: Progress,
) -> None:
    figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if bad := [f"{name} {value}" for name, value in figures.items() if not np.isfinite(value)]:
        names = ", ".join(episodes(step - 1))
        raise NonFiniteLossError(
            f"step {step}: {', '.join(bad)}; the batch holds frames of: {names}. The last checkpoint is from before; a "
            "lower learning rate or leaving these out may help."
        )
    if schedule.is_due(schedule.log_every, step):
        log.write(step, {f"train/{name}": value for name, value in figures.items()})
    log.show(step, progress.step(step, figures))
