"""Pipeline stages: runs programs as subprocesses in dependency order, several in parallel, and skips finished ones.

Several runs, on machines that share a disk as well, may work on stages in the same folder: a stage is locked while it
runs (flock), and one that another run has finished is skipped.
"""

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from ml_collections import ConfigDict

from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.system.compilation_cache import VARIABLE
from vpt_jax.system.errors import ConfigError, UserError
from vpt_jax.system.workers import FolderInUseError, locked

_POLL_INTERVAL = 0.05  # seconds
_PROGRESS_INTERVAL = 20.0  # seconds between calls of `on_progress`
_RETRY_INTERVAL = 2.0  # seconds until a stage that another run is working on is tried again
_OUTPUT_TIMEOUT = 5  # seconds to read the rest of a program's output: its child processes may still hold the pipe open


class StageFailedError(UserError, RuntimeError):
    """A stage ended before it was done; the message names it, and the command that runs it alone."""


class Stage(NamedTuple):
    """A program with its arguments and its dependencies."""

    name: str  # a description of what it does, different from all others
    command: tuple[str, ...]
    depends_on: tuple[str, ...] = ()  # names of the stages that have to be done before
    output: Path | None = None  # exists once the stage is done; for programs that exit with 0 also when stopped


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


def make_stages(config: ConfigDict, stages: Iterable[Stage], root: Path) -> "Stages":
    """Stages of a program that runs `config.max_parallel` of them, recorded in its `config.workdir`.

    Raises:
        ConfigError: `config.max_parallel` is below 1.
    """
    if config.max_parallel < 1:
        raise ConfigError(f"config.max_parallel is {config.max_parallel}: at least one must run")
    folder = Path(config.workdir).resolve()
    return Stages(list(stages), folder / "stages", environment(folder, config.max_parallel), root)


def results_folder(config: ConfigDict) -> Path:
    """Folder of a program's files of results (vpt_jax/report/experiments.py), which exists.

    It is `config.result_files`, or `results` in `config.workdir`.
    """
    folder = Path(config.result_files or Path(config.workdir) / "results").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class _RunningStage(NamedTuple):
    process: subprocess.Popen[str]
    reader: threading.Thread
    start_time: float
    lock: ExitStack


class Stages:
    """Runs stages in dependency order, several in parallel, the first of the list first; call `run`.

    Each stage is a process, whose output lines are printed with the stage's number. Finished stages are recorded in
    `folder` by their names, so that stages may be added, removed and reordered; a stage runs again only if its command,
    or that of a stage it depends on, has changed.
    """

    def __init__(self, stages: Sequence[Stage], folder: Path, environment: Mapping[str, str], cwd: Path):
        self._stages = {stage.name: stage for stage in stages}
        self._numbers = {name: number for number, name in enumerate(self._stages, 1)}
        self._folder, self._environment, self._cwd = folder, dict(environment), cwd
        self._seconds: dict[str, float] = {}  # of the finished stages
        self._running: dict[str, _RunningStage] = {}
        self._retry_times: dict[str, float] = {}  # of the stages that another run was working on
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
        """
        with _received_signals() as signals:
            try:
                self._seconds = self.finished()
                reported, report_time = -1, 0.0
                while len(self._seconds) < len(self._stages) and not signals:
                    for stage in self._ready():
                        if len(self._running) < max_parallel:
                            self._try_to_start(stage)
                    due = time.monotonic() > report_time + _PROGRESS_INTERVAL
                    if on_progress and (len(self._seconds) > reported or due):
                        reported = len(self._seconds)
                        on_progress(self._seconds)  # after the next stages were started
                        report_time = time.monotonic()
                    time.sleep(_POLL_INTERVAL)
                    for name in [*self._running] if not signals else ():  # a signal to all may have stopped them too
                        self._poll(name)
            finally:
                self._stop()
        if signals:
            raise KeyboardInterrupt
        return {name: self._seconds[name] for name in self._stages}

    def finished(self) -> dict[str, float]:
        """The seconds that each stage took which is done, by name."""
        records = {name: self._read_record(name) for name in self._stages}
        return {
            name: record["seconds"]
            for name, record in records.items()
            if record.get("wanted") == self._fingerprints[name]
        }

    def shell_command(self, stage: Stage) -> str:
        """The shell command that runs a stage alone, with the environment variables that it gets here."""
        variables = [f"{name}={value}" for name, value in self._environment.items() if os.environ.get(name) != value]
        return shlex.join([*(["env", *variables] if variables else []), *stage.command])

    def _ready(self) -> list[Stage]:
        """Stages whose dependencies are done."""
        now = time.monotonic()
        return [
            stage
            for name, stage in self._stages.items()
            if name not in self._seconds
            and name not in self._running
            and self._retry_times.get(name, 0.0) <= now
            and self._seconds.keys() >= set(stage.depends_on)
        ]

    def _try_to_start(self, stage: Stage) -> None:
        """Start a stage, unless another run is working on it or has finished it in the meantime."""
        with ExitStack() as stack:
            try:
                lock = stack.enter_context(locked(self._record_folder(stage.name)))
            except FolderInUseError:
                if stage.name not in self._retry_times:
                    print(f"waiting: another run is working on it: {stage.name}", flush=True)
                self._retry_times[stage.name] = time.monotonic() + _RETRY_INTERVAL
                return
            record = self._read_record(stage.name)
            if record.get("wanted") == self._fingerprints[stage.name]:
                self._seconds[stage.name] = record["seconds"]
            else:
                self._start(stage, lock, stack.pop_all())

    def _start(self, stage: Stage, lock: int, held: ExitStack) -> None:
        number = self._numbers[stage.name]
        print(f"\n[{number}/{len(self._stages)}] {stage.name}\n  {self.shell_command(stage)}", flush=True)
        process = subprocess.Popen(  # noqa: S603 - programs of this repository
            stage.command, cwd=self._cwd, env=self._environment, encoding="utf-8", errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches this process alone, which then stops all stages the same way
            pass_fds=(lock,),  # held until the stage has ended as well, however this process ends
        )  # fmt: skip
        reader = threading.Thread(target=_print_lines, args=(number, process.stdout), daemon=True)
        reader.start()
        self._running[stage.name] = _RunningStage(process, reader, time.monotonic(), held)

    def _poll(self, name: str) -> None:
        """Record the stage as finished if its process has ended; raises `StageFailedError` if it has failed."""
        stage, running = self._stages[name], self._running[name]
        if (code := running.process.poll()) is None:
            return
        done = self._is_done(name)
        seconds = self._end(name, done)
        if not done:
            ending = f"ended with code {code}" if code else f"ended without writing {stage.output}"
            raise StageFailedError(f"{name}: {ending}. Run it alone: {self.shell_command(stage)}")
        self._seconds[name] = seconds

    def _end(self, name: str, done: bool) -> float:
        """Wait for the process and the rest of its output; record its seconds, including those of earlier starts."""
        running, fingerprint = self._running.pop(name), self._fingerprints[name]
        running.process.wait()
        running.reader.join(_OUTPUT_TIMEOUT)
        before = self._read_record(name)
        seconds = time.monotonic() - running.start_time
        if fingerprint in (before.get("begun"), before.get("wanted")):
            seconds += before["seconds"]
        record = {"wanted" if done else "begun": fingerprint, "seconds": seconds}
        write_text(self._record_folder(name) / "record.json", json.dumps(record) + "\n")
        running.lock.close()
        return seconds

    def _is_done(self, name: str) -> bool:
        """True if the process of a stage has ended by itself, and did all it should."""
        output = self._stages[name].output
        return self._running[name].process.poll() == 0 and (output is None or output.exists())

    def _stop(self) -> None:
        """Terminate the running stages, and wait for them."""
        done = {name for name in self._running if self._is_done(name)}  # just before: they need not run again
        for running in self._running.values():
            running.process.terminate()
        for name in [*self._running]:
            if name not in done:
                print(f"stopping: {name} saves its state", flush=True)
            self._end(name, name in done)

    def _record_folder(self, name: str) -> Path:
        """Folder of a stage's record, which is also its lock."""
        digest = hashlib.sha256(name.encode()).hexdigest()[:8]
        return self._folder / f"{re.sub(r'[^A-Za-z0-9.]+', '-', name)[:80]}-{digest}"

    def _read_record(self, name: str) -> dict[str, Any]:
        return read_json(self._record_folder(name) / "record.json") or {}


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
