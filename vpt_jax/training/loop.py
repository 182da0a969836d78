"""Training loop: draw a batch, step, log the previous step, evaluate, save. It stops cleanly and resumes exactly."""

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
from vpt_jax.system.errors import UserError
from vpt_jax.training.checkpoints import Checkpoints
from vpt_jax.training.goodput import Goodput
from vpt_jax.training.hang import hang_limit
from vpt_jax.training.metrics_log import MetricsLog, Progress
from vpt_jax.training.state import Metrics, State


class NonFiniteLossError(UserError, FloatingPointError):
    """The loss or another metric became NaN or infinite; the message names it, the step and the episodes."""


class StopSignal:
    """Preemption notice: SIGTERM or, in a job of one process, Ctrl-C; a context manager that installs the handlers.

    All hosts get the same answer. While the main thread compiles and runs no handlers, the watcher thread of `stopping`
    reports the signal (`stopping.registered_handler`).
    """

    def __init__(self) -> None:
        self.received = False
        self._calls = 0
        self._previous_handlers: dict[int, Any] = {}
        self._exit_stack = ExitStack()

    def __enter__(self) -> Self:
        if jax.process_count() == 1:  # with several, JAX's own handler tells the other hosts
            numbers = (signal.SIGTERM, signal.SIGINT)
            self._previous_handlers = {number: signal.signal(number, self._receive) for number in numbers}
            self._exit_stack.enter_context(stopping.registered_handler(self._receive))
        return self

    def __exit__(self, *_: object) -> None:
        self._exit_stack.close()
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the run at once

    def __call__(self) -> bool:
        """True once the run is to stop; a collective operation, which all hosts must call equally often.

        It is called after every step, and wherever else a run can stop.
        """
        self._calls += 1
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(self._calls):
            self.received = True
        return self.received


@dataclass(frozen=True)
class Schedule:
    """Number of steps, and intervals in steps of logging, evaluation and saving, which also happen after the last."""

    steps: int
    log_every: int
    evaluate_every: int
    save_every: int

    def is_due(self, every: int, step: int) -> bool:
        """True after every `every`-th step, and after the last."""
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
    """Trains from `state.step` to the end of the schedule, or until a preemption notice.

    The order matters: metrics of a step are written before its checkpoint, and the checkpoint before the next batch is
    drawn, so that wherever a run is killed, resuming repeats what is not in the checkpoint and nothing else. A step's
    loss is fetched while the next one runs (asynchronous dispatch), so that the device never waits; only saving and
    evaluating wait for it.

    Args:
        state: train state to start from; its `step` is the number of finished steps.
        schedule: number of steps, and intervals of logging, evaluation and saving.
        train_step: state and batch -> next state and metrics, among them "loss".
        batches: may end before the schedule does: an iterator whose batches take long ends when asked to `stop`.
        stop: preemption notice.
        evaluate: parameters -> metrics; None: no evaluation.
        episodes: step, counted from 0 -> names of the episodes in its batch, for the message of `NonFiniteLossError`.
        checkpoints, log, progress: outputs; all are closed at the end.
        goodput: wall time by category.
        hang_minutes: a step, an evaluation or a save that takes longer ends the process with status 1 (0: no limit);
            compiling the step may take longer, compiling the evaluation may not.

    Raises:
        NonFiniteLossError: a metric of a step is NaN or infinite.
    """
    pending = _PendingMetrics(schedule, episodes, log, progress, goodput)
    saved = done = int(state.step)

    def run_evaluation() -> None:
        if evaluate is None:
            return
        with goodput.measure("step"):
            pending.flush()
        start_time = time.monotonic()
        with goodput.measure("evaluation"):
            figures = evaluate(state.params)
        log.write(done, figures)
        progress.evaluated(done, figures, time.monotonic() - start_time)

    def save() -> None:
        nonlocal saved
        with goodput.measure("step"):
            pending.flush()
        with goodput.measure("checkpoint"):
            checkpoints.save(state, done)
        saved = done

    with closing(checkpoints), closing(progress), closing(log), hang_limit(hang_minutes) as heartbeat:
        while done < schedule.steps and not stop.received:
            batch = _next_batch(batches, pending.is_running, progress, goodput)
            if batch is None:
                break
            with goodput.measure("step"):
                state, metrics = train_step(state, batch)
                pending.flush()
            done += 1
            heartbeat()
            pending.set(done, metrics)
            stop()
            if schedule.is_due(schedule.evaluate_every, done):
                run_evaluation()
                heartbeat()
            if schedule.is_due(schedule.save_every, done):
                save()
                heartbeat()
        if stop.received:
            progress.log(f"asked to stop after step {done}; run the same command again to resume")
            if saved < done:
                save()
        with goodput.measure("checkpoint"):
            checkpoints.wait()
        goodput.write(done)
        progress.log(str(goodput))
    return state


class _PendingMetrics:
    """Metrics of the last step, still on the device; they are fetched and logged while the next step runs."""

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

    def set(self, step: int, metrics: Metrics) -> None:
        """Stores the metrics of a step that has been dispatched."""
        self._step, self._metrics = step, metrics

    def is_running(self) -> bool:
        """True while the devices still compute the step."""
        return self._metrics is not None and not self._metrics["loss"].is_ready()

    def flush(self) -> None:
        """Waits for the metrics, logs them and drops them."""
        if self._metrics is not None:
            _log_step(self._step, self._metrics, self._schedule, self._episodes, self._log, self._progress)
            if self._schedule.is_due(self._schedule.log_every, self._step):
                self._log.write_tensorboard(self._step, self._goodput.write(self._step))
        self._metrics = None


def _next_batch(batches: Iterator[Any], is_running: Callable[[], bool], progress: Progress, goodput: Goodput) -> Any:
    """Next batch, or None. Waiting for it counts as input wait only if the devices have nothing else to do."""
    start_time = time.monotonic()
    batch = next(batches, None)
    seconds = time.monotonic() - start_time
    busy = is_running()
    progress.add_input_wait(0.0 if busy else seconds)
    goodput.add("step" if busy else "input", seconds)
    return batch


def _log_step(
    step: int,
    metrics: Metrics,
    schedule: Schedule,
    episodes: Callable[[int], list[str]],
    log: MetricsLog,
    progress: Progress,
) -> None:
    """Writes a step's metrics to all outputs; raises `NonFiniteLossError`."""
    figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if bad := [f"{name} {value}" for name, value in figures.items() if not np.isfinite(value)]:
        names = ", ".join(episodes(step - 1))
        raise NonFiniteLossError(
            f"step {step}: {', '.join(bad)}; the batch holds frames of: {names}. The last checkpoint is from before; a "
            "lower learning rate, or leaving out these episodes, may help."
        )
    if schedule.is_due(schedule.log_every, step):
        log.write(step, {f"train/{name}": value for name, value in figures.items()})
    log.write_tensorboard(step, progress.step(step, figures))
