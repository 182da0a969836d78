"""Pipeline stages: runs programs as subprocesses in dependency order, several in parallel, and skips finished ones."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.system.compilation_cache import VARIABLE
from vpt_jax.system.errors import UserError
from vpt_jax.system.workers import locked

_POLL_INTERVAL = 0.05  # seconds
_PROGRESS_INTERVAL = 20.0  # seconds between calls of `on_progress`
_OUTPUT_TIMEOUT = 5  # seconds to read the rest of a program's output: its child processes may still hold the pipe open


class StageFailedError(UserError, RuntimeError):
    """A stage ended before it was done; the message names it, and the command that runs it alone."""


class Stage(NamedTuple):
    """A program with its arguments and its dependencies."""

    name: str  # a description of what it does
    command: tuple[str, ...]
    depends_on: tuple[str, ...] = ()  # names of the stages that have to be done before
    output: Path | None = None  # exists once the stage is done; for programs that exit with 0 also when stopped

    @property
    def shell_command(self) -> str:
        """The shell command that runs the stage alone."""
        return shlex.join(self.command)


def program(
    root: Path,
    name: str,
    file: str,
    settings: tuple[str, ...],
    depends_on: Iterable[str] = (),
    output: Path | None = None,
) -> Stage:
    """A stage that runs a program of launch/ in the repository at `root`."""
    return Stage(name, (sys.executable, str(root / "launch" / file), *settings), tuple(depends_on), output)


def flags(root: Path, config: str, more: tuple[str, ...] = (), **fields: object) -> tuple[str, ...]:
    """Flags for a file of configs/ and its variant, such as `idm:demo`; `more` settings, FIELD=VALUE, come last."""
    file, _, variant = config.partition(":")
    settings = (*(f"{field}={value}" for field, value in fields.items()), *more)
    flag = f"--config={root / 'configs' / file}.py" + (f":{variant}" if variant else "")
    return (flag, *(f"--config.{setting}" for setting in settings))


def checkpoint(workdir: Path, steps: int) -> Path:
    """Checkpoint of the last training step. Its existence tells a finished run from a stopped one: both exit with 0."""
    return workdir / "checkpoints" / str(steps)


def environment(folder: Path, max_parallel: int) -> dict[str, str]:
    """Environment variables of all stages; variables of the current environment take precedence."""
    settings = {
        # Stages that train or apply the same model reuse its compiled program.
        VARIABLE: str(folder / "compiled"),
        "PYTHONUNBUFFERED": "1",
    }
    if max_parallel > 1:  # one core for each stage: the threads of two stages would wait for one another
        settings["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return settings | os.environ


class _RunningStage(NamedTuple):
    process: subprocess.Popen[str]
    reader: threading.Thread
    start_time: float


class Stages:
    """Runs stages in dependency order, several in parallel, the first of the list first; call `run`.

    Each stage is a process, whose output lines are printed with the stage's number. Finished stages are recorded in
    `folder`, and run again only if their command, or that of a stage they depend on, has changed.
    """

    def __init__(self, stages: Sequence[Stage], folder: Path, environment: Mapping[str, str], cwd: Path):
        self._stages = dict(enumerate(stages, 1))
        self._folder, self._environment, self._cwd = folder, dict(environment), cwd
        self._seconds: dict[str, float] = {}  # of the finished stages
        self._running: dict[int, _RunningStage] = {}
        self._fingerprints: dict[str, list[Any]] = {}  # commands that a stage's result depends on
        for stage in stages:
            command = list(stage.command[1:])  # without the Python interpreter
            self._fingerprints[stage.name] = [command, [self._fingerprints[name] for name in stage.depends_on]]

    def run(
        self, max_parallel: int, on_progress: Callable[[Mapping[str, float]], None] | None = None
    ) -> dict[str, float]:
        """Run the stages that are not done. On a signal, stop them and wait until they have saved their state.

        Args:
          max_parallel: number of stages that run in parallel.
          on_progress: called with the seconds of all finished stages while others are left: at the start, after each
            stage, and every twenty seconds, since a running stage may have written intermediate results.

        Returns:
          The seconds that each stage took, by name.

        Raises:
          StageFailedError: a stage ended with an error, or before it was done; the others have been stopped.
          KeyboardInterrupt: the run was stopped by a signal.
          FolderInUseError: another run, or a stage that one has left behind, is working in the folder.
        """
        with locked(self._folder) as lock, _received_signals() as signals:
            try:
                self._load_finished()
                reported, report_time = -1, 0.0
                while len(self._seconds) < len(self._stages) and not signals:
                    for number in self._ready()[: max_parallel - len(self._running)]:
                        self._start(number, lock)
                    due = time.monotonic() > report_time + _PROGRESS_INTERVAL
                    if on_progress and (len(self._seconds) > reported or due):
                        reported = len(self._seconds)
                        on_progress(self._seconds)  # after the next stages were started
                        report_time = time.monotonic()
                    time.sleep(_POLL_INTERVAL)
                    for number in [*self._running]:
                        self._poll(number)
            finally:
                self._stop()
        if signals:
            raise KeyboardInterrupt
        return {stage.name: self._seconds[stage.name] for stage in self._stages.values()}

    def _load_finished(self) -> None:
        for number, stage in self._stages.items():
            if (record := self._read_record(number)).get("wanted") == self._fingerprints[stage.name]:
                self._seconds[stage.name] = record["seconds"]

    def _ready(self) -> list[int]:
        """Numbers of the stages whose dependencies are done."""
        waiting = [n for n, stage in self._stages.items() if stage.name not in self._seconds and n not in self._running]
        return [n for n in waiting if self._seconds.keys() >= set(self._stages[n].depends_on)]

    def _start(self, number: int, lock: int) -> None:
        stage = self._stages[number]
        print(f"\n[{number}/{len(self._stages)}] {stage.name}\n  {stage.shell_command}", flush=True)
        process = subprocess.Popen(  # noqa: S603 - programs of this repository
            stage.command, cwd=self._cwd, env=self._environment, encoding="utf-8", errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches this process alone, which then stops all stages the same way
            pass_fds=(lock,),  # held until the stage has ended as well, however this process ends
        )  # fmt: skip
        reader = threading.Thread(target=_print_lines, args=(number, process.stdout), daemon=True)
        reader.start()
        self._running[number] = _RunningStage(process, reader, time.monotonic())

    def _poll(self, number: int) -> None:
        """Record the stage as finished if its process has ended; raises `StageFailedError` if it has failed."""
        stage, running = self._stages[number], self._running[number]
        if (code := running.process.poll()) is None:
            return
        done = code == 0 and (stage.output is None or stage.output.exists())
        seconds = self._end(number, done)
        if not done:
            ending = f"ended with code {code}" if code else "was stopped"
            raise StageFailedError(f"{stage.name}: {ending}. Run it alone: {stage.shell_command}")
        self._seconds[stage.name] = seconds

    def _end(self, number: int, done: bool) -> float:
        """Wait for the process and the rest of its output; record its seconds, including those of earlier starts."""
        running, fingerprint = self._running.pop(number), self._fingerprints[self._stages[number].name]
        running.process.wait()
        running.reader.join(_OUTPUT_TIMEOUT)
        before = self._read_record(number)
        seconds = time.monotonic() - running.start_time
        if fingerprint in (before.get("begun"), before.get("wanted")):
            seconds += before["seconds"]
        record = {"wanted" if done else "begun": fingerprint, "seconds": seconds}
        write_text(self._folder / f"{number:02}.json", json.dumps(record) + "\n")
        return seconds

    def _stop(self) -> None:
        """Terminate the running stages, and wait for them."""
        for running in self._running.values():
            running.process.terminate()
        for number in [*self._running]:
            print(f"stopping: {self._stages[number].name} saves its state", flush=True)
            self._end(number, done=False)

    def _read_record(self, number: int) -> dict[str, Any]:
        return read_json(self._folder / f"{number:02}.json") or {}


def _print_lines(number: int, lines: IO[str]) -> None:
    for line in lines:
        with suppress(OSError):  # stdout may be closed; the stage must not block on its output
            sys.stdout.write(f"[{number}] {line}")
            sys.stdout.flush()


@contextmanager
def _received_signals() -> Iterator[list[int]]:
    """Record SIGINT, SIGTERM and SIGHUP in the yielded list instead of ending the block."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
