"""Set-up that training runs of all kinds share: checkpoints, resuming and outputs; a `Run` has what differs.

`programs/supervised.py` makes the run of behavioural cloning or inverse dynamics, `ppg/train.py` that of PPG.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.parallel import log
from vpt_jax.training.checkpoints import Checkpoints, SettingsChangedError, write_run_config
from vpt_jax.training.compile_times import measured_compilation
from vpt_jax.training.goodput import Goodput
from vpt_jax.training.loop import Outputs, Schedule, StopSignal, Trainer
from vpt_jax.training.metrics_log import MetricsLog, Progress, Work
from vpt_jax.training.state import Metrics, State


class LoopInputs(NamedTuple):
    """Functions and batches that the loop uses; the fields are those of `loop.Trainer`."""

    train_step: Callable[[Any, Any], tuple[Any, Metrics]]
    batches: Iterator[Any]
    evaluate: Callable[[Any], dict[str, float]] | None
    episodes: Callable[[int], list[str]]
    prepare: Callable[[Any], None] = lambda state: None


@dataclass(frozen=True)
class Run(Generic[State]):
    """A training run on a mesh, ready to start: everything in which kinds of training differ.

    Attributes:
        schedule: number of steps, and intervals of logging, evaluation and saving.
        work: of a step, for speeds and MFU.
        metadata: of its checkpoints, from `checkpoints.run_metadata`.
        shapes: of the state.
        shardings: of the state.
        initialize: makes the state before the first step.
        open_inputs: state to start from and preemption notice -> context manager of the loop's inputs.
        report: called with the state once all steps are done.
        headline: name of the metric that the progress display shows.
        setting_hints: advice by name of a setting, added to the error if it has changed in a resumed run.
    """

    schedule: Schedule
    work: Work
    metadata: dict[str, Any]
    shapes: State
    shardings: State
    initialize: Callable[[], State]
    open_inputs: Callable[[State, StopSignal], AbstractContextManager[LoopInputs]]
    report: Callable[[State], None] = lambda state: None
    headline: str = "loss"
    setting_hints: Mapping[str, str] = field(default_factory=dict)


def train_run(run: Run[State], config: ConfigDict, mesh: Mesh, start_time: float) -> bool:
    """Trains a run, or resumes it from the newest checkpoint in `config.workdir`; returns True if all steps are done.

    Args:
        run: from `config`, on `mesh`.
        config: fields as in configs/base.py.
        mesh: of the devices.
        start_time: of the process, by `time.monotonic`.
    """
    workdir, quiet = Path(config.workdir), jax.process_index() > 0
    folder = Checkpoints(workdir / "checkpoints", **config.checkpoint, metadata=run.metadata)
    with jax.set_mesh(mesh), closing(folder) as checkpoints, measured_compilation() as compile_times:
        state = resume(checkpoints, run.shapes, run.shardings, run.setting_hints) or run.initialize()
        write_run_config(workdir, config, parallel.sharding_table(run.shapes, run.shardings))
        start = int(state.step)
        # The preemption notice is installed first: starting games or workers may replace signal handlers.
        with StopSignal() as stop, run.open_inputs(state, stop) as inputs:
            outputs = Outputs(
                MetricsLog(workdir, start, quiet),
                Progress(start, run.schedule.steps, run.work, quiet, headline=run.headline, start_note=compile_times),
                Goodput(workdir, start, start_time, quiet),
            )
            trainer = Trainer(
                schedule=run.schedule,
                **inputs._asdict(),
                stop=stop,
                checkpoints=checkpoints,
                outputs=outputs,
                hang_minutes=config.hang_minutes,
            )
            state = trainer.run(state)
    finished = int(state.step) == run.schedule.steps
    if finished:
        run.report(state)
    return finished


def resume(checkpoints: Checkpoints, shapes: State, shardings: State, setting_hints: Mapping[str, str]) -> State | None:
    """Restores the newest checkpoint (exact resume); None: there is none.

    Raises:
        SettingsChangedError: it has other settings; the message ends with the `setting_hints` of these settings.
    """
    if checkpoints.latest is None:
        return None
    try:
        state = checkpoints.restore(shapes, shardings)
    except SettingsChangedError as error:
        hints = [hint for setting, hint in setting_hints.items() if setting in str(error)]
        if not hints:
            raise
        raise SettingsChangedError(" ".join([str(error), *hints])) from error
    log(f"resumed from step {checkpoints.latest}")
    return state
