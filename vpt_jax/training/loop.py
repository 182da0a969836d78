"""Training loop: draw a batch, step, log the previous step, evaluate, save. It stops cleanly and resumes exactly."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Generic, Self

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


@dataclass(frozen=True)
class Outputs:
    """Outputs of a run: metrics, the progress display and the wall time by category."""

    log: MetricsLog
    progress: Progress
    goodput: Goodput


@dataclass
class Trainer(Generic[State]):
    """Training loop of a run, of any objective.

    The order matters: metrics of a step are written before its checkpoint, and the checkpoint before the next batch is
    drawn, so that wherever a run is killed, resuming repeats what is not in the checkpoint and nothing else. A step's
    loss is fetched while the next one runs (asynchronous dispatch), so that the device never waits; only saving and
    evaluating wait for it.

    Attributes:
        schedule: number of steps, and intervals of logging, evaluation and saving.
        train_step: state and batch -> next state and metrics, among them "loss".
        batches: may end before the schedule does: an iterator whose batches take long ends when asked to `stop`.
        stop: preemption notice.
        evaluate: parameters -> metrics; None: no evaluation.
        episodes: step, counted from 0 -> names of the episodes in its batch, for the message of `NonFiniteLossError`.
        checkpoints: of the run; not closed.
        outputs: closed at the end.
        prepare: called with the state before the first batch is drawn; it may compile the step.
        hang_minutes: a step, an evaluation or a save that takes longer ends the process with status 1 (0: no limit);
            compiling the step may take longer, compiling the evaluation may not.
    """

    schedule: Schedule
    train_step: Callable[[State, Any], tuple[State, Metrics]]
    batches: Iterator[Any]
    stop: StopSignal
    evaluate: Callable[[Any], dict[str, float]] | None
    episodes: Callable[[int], list[str]]
    checkpoints: Checkpoints
    outputs: Outputs
    prepare: Callable[[State], None] = lambda state: None
    hang_minutes: float = 0.0
    # Number and metrics of the last step; they are still on the device, and are logged while the next step runs.
    _pending: tuple[int, Metrics] | None = field(default=None, init=False)

    def run(self, state: State) -> State:
        """Trains from `state.step`, the number of finished steps, to the end of the schedule or a preemption notice.

        Raises:
            NonFiniteLossError: a metric of a step is NaN or infinite.
        """
        log, progress = self.outputs.log, self.outputs.progress
        with closing(progress), closing(log), hang_limit(self.hang_minutes) as heartbeat:
            return self._run_steps(state, heartbeat)

    def _run_steps(self, state: State, heartbeat: Callable[[], None]) -> State:
        done = saved = int(state.step)
        if done < self.schedule.steps:
            with self.outputs.goodput.measure("compile"):
                self.prepare(state)
        while done < self.schedule.steps and not self.stop.received:
            batch = self._next_batch()
            if batch is None:
                break
            with self.outputs.goodput.measure("step"):
                state, metrics = self.train_step(state, batch)
                self._log_pending()
            done += 1
            heartbeat()
            self._pending = done, metrics
            self.stop()
            if self.schedule.is_due(self.schedule.evaluate_every, done):
                self._run_evaluation(state, done)
                heartbeat()
            if self.schedule.is_due(self.schedule.save_every, done):
                self._save(state, done)
                saved = done
                heartbeat()
        if self.stop.received:
            self.outputs.progress.log(f"asked to stop after step {done}; run the same command again to resume")
            if saved < done:
                self._save(state, done)
        self._finish(done)
        return state

    def _next_batch(self) -> Any:
        """Next batch, or None. Waiting for it counts as input wait only if the devices have nothing else to do."""
        start_time = time.monotonic()
        batch = next(self.batches, None)
        seconds = time.monotonic() - start_time
        busy = self._pending is not None and not self._pending[1]["loss"].is_ready()
        self.outputs.progress.add_input_wait(0.0 if busy else seconds)
        self.outputs.goodput.add("step" if busy else "input", seconds)
        return batch

    def _run_evaluation(self, state: State, step: int) -> None:
        if self.evaluate is None:
            return
        with self.outputs.goodput.measure("step"):
            self._log_pending()
        start_time = time.monotonic()
        with self.outputs.goodput.measure("evaluation"):
            figures = self.evaluate(state.params)
        self.outputs.log.write(step, figures)
        self.outputs.progress.evaluated(step, figures, time.monotonic() - start_time)

    def _save(self, state: State, step: int) -> None:
        with self.outputs.goodput.measure("step"):
            self._log_pending()
        with self.outputs.goodput.measure("checkpoint"):
            self.checkpoints.save(state, step)

    def _finish(self, step: int) -> None:
        goodput = self.outputs.goodput
        with goodput.measure("checkpoint"):
            self.checkpoints.wait()
        goodput.write(step)
        self.outputs.progress.log(str(goodput))

    def _log_pending(self) -> None:
        """Waits for the metrics of the last step and writes them to all outputs; raises `NonFiniteLossError`."""
        if self._pending is None:
            return
        (step, metrics), self._pending = self._pending, None
        figures = {name: float(value) for name, value in jax.device_get(metrics).items()}
        self._refuse_non_finite(step, figures)
        outputs, is_due = self.outputs, self.schedule.is_due(self.schedule.log_every, step)
        if is_due:
            outputs.log.write(step, {f"train/{name}": value for name, value in figures.items()})
        outputs.log.write_tensorboard(step, outputs.progress.step(step, figures))
        if is_due:
            outputs.log.write_tensorboard(step, outputs.goodput.write(step))

    def _refuse_non_finite(self, step: int, figures: Mapping[str, float]) -> None:
        if bad := [f"{name} {value}" for name, value in figures.items() if not np.isfinite(value)]:
            names = ", ".join(self.episodes(step - 1))
            raise NonFiniteLossError(
                f"step {step}: {', '.join(bad)}; the batch holds frames of: {names}. The last checkpoint is from "
                "before; a lower learning rate, or leaving out these episodes, may help."
            )
