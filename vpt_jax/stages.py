"""A larger piece of work as stages: programs that run side by side, as far as they do not need one another."""

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
from vpt_jax.system.workers import locked

_POLL = 0.05  # seconds
_TELL_EVERY = 20.0  # seconds between calls of `on_progress`
_LAST_LINES = 5  # seconds to wait for them once a program has ended: what it started may still hold its output open


class StageFailedError(RuntimeError):
    """A stage ended before it was done; the message says which, and how to run it alone."""


class Stage(NamedTuple):
    """A program with its arguments, and what it needs."""

    name: str  # what it does, in words
    command: tuple[str, ...]
    after: tuple[str, ...] = ()  # names of the stages that have to be done before
    leaves: Path | None = None  # what is there once it is done, of a program that ends well when it is stopped, too

    @property
    def shown(self) -> str:
        """What to type to run it alone."""
        return shlex.join(self.command)


def program(
    root: Path, name: str, file: str, settings: tuple[str, ...], after: Iterable[str] = (), leaves: Path | None = None
) -> Stage:
    """A program of launch/ in the repository at `root`."""
    return Stage(name, (sys.executable, str(root / "launch" / file), *settings), tuple(after), leaves)


def flags(root: Path, config: str, more: tuple[str, ...] = (), **fields: object) -> tuple[str, ...]:
    """Flags for a file of configs/ and its variant, such as `idm:demo`; `more` settings, FIELD=VALUE, come last."""
    file, _, variant = config.partition(":")
    settings = (*(f"{field}={value}" for field, value in fields.items()), *more)
    flag = f"--config={root / 'configs' / file}.py" + (f":{variant}" if variant else "")
    return (flag, *(f"--config.{setting}" for setting in settings))


def checkpoint(workdir: Path, steps: int) -> Path:
    """What training leaves at its last step; asked to stop before, it ends as well as if it had come to it."""
    return workdir / "checkpoints" / str(steps)


def environment(folder: Path, at_once: int) -> dict[str, str]:
    """Of all stages; what is set where this program is started comes first."""
    settings = {
        # Stages of the same model find its program compiled.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    if at_once > 1:  # each on a core of its own: threads of two stages would wait for one another
        settings["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return settings | os.environ


class _Running(NamedTuple):
    process: subprocess.Popen[str]
    reader: threading.Thread
    began: float


class Stages:
    """Runs stages up to so many side by side, the first of the list first; `run` is all there is to call.

    Each is a process of its own, whose lines are printed with its number. What is done is noted in `folder`, and run
    again only if its command, or that of a stage it needs, has changed.
    """

    def __init__(self, stages: Sequence[Stage], folder: Path, environment: Mapping[str, str], cwd: Path):
        self._stages = dict(enumerate(stages, 1))
        self._folder, self._environment, self._cwd = folder, dict(environment), cwd
        self._seconds: dict[str, float] = {}  # of the stages that are done
        self._running: dict[int, _Running] = {}
        self._wanted: dict[str, list[Any]] = {}  # what a stage's result follows from
        for stage in stages:
            command = list(stage.command[1:])  # whichever Python runs it
            self._wanted[stage.name] = [command, [self._wanted[name] for name in stage.after]]

    def run(self, at_once: int, on_progress: Callable[[Mapping[str, float]], None] | None = None) -> dict[str, float]:
        """Runs what is not done. Stopped by a signal, it stops the stages and waits until they have saved.

        Args:
          at_once: stages side by side.
          on_progress: called with the seconds of all stages that are done, while others are left: at first, after each,
            and every twenty seconds, since a stage may leave something to see before it is done.

        Returns:
          The seconds that each stage took, by name.

        Raises:
          StageFailedError: a stage ended with an error, or before it was done; the others have been stopped.
          KeyboardInterrupt: it was stopped.
          FolderInUseError: another run, or a stage that one has left behind, is at work in the folder.
        """
        with locked(self._folder) as lock, _signals() as stopped:
            try:
                self._find_done()
                told, told_at = -1, 0.0
                while len(self._seconds) < len(self._stages) and not stopped:
                    for number in self._ready()[: at_once - len(self._running)]:
                        self._start(number, lock)
                    if on_progress and (len(self._seconds) > told or time.monotonic() > told_at + _TELL_EVERY):
                        told = len(self._seconds)
                        on_progress(self._seconds)  # after the next ones were started
                        told_at = time.monotonic()
                    time.sleep(_POLL)
                    for number in [*self._running]:
                        self._look_at(number)
            finally:
                self._stop()
        if stopped:
            raise KeyboardInterrupt
        return {stage.name: self._seconds[stage.name] for stage in self._stages.values()}

    def _find_done(self) -> None:
        for number, stage in self._stages.items():
            if (note := self._note(number)).get("wanted") == self._wanted[stage.name]:
                self._seconds[stage.name] = note["seconds"]

    def _ready(self) -> list[int]:
        """The stages that can be started."""
        waiting = [n for n, stage in self._stages.items() if stage.name not in self._seconds and n not in self._running]
        return [n for n in waiting if self._seconds.keys() >= set(self._stages[n].after)]

    def _start(self, number: int, lock: int) -> None:
        stage = self._stages[number]
        print(f"\n[{number}/{len(self._stages)}] {stage.name}\n  {stage.shown}", flush=True)
        process = subprocess.Popen(  # noqa: S603 - our own programs
            stage.command, cwd=self._cwd, env=self._environment, encoding="utf-8", errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches this process alone, which then stops all stages the same way
            pass_fds=(lock,),  # held until the stage has ended as well, however this process ends
        )  # fmt: skip
        reader = threading.Thread(target=_show, args=(number, process.stdout), daemon=True)
        reader.start()
        self._running[number] = _Running(process, reader, time.monotonic())

    def _look_at(self, number: int) -> None:
        """Take note if the stage has ended."""
        stage, running = self._stages[number], self._running[number]
        if (code := running.process.poll()) is None:
            return
        done = code == 0 and (stage.leaves is None or stage.leaves.exists())
        seconds = self._end(number, done)
        if not done:
            ending = f"ended with code {code}" if code else "was stopped"
            raise StageFailedError(f"{stage.name}: {ending}. Alone: {stage.shown}")
        self._seconds[stage.name] = seconds

    def _end(self, number: int, done: bool) -> float:
        """Wait for the process and its last lines; note and return its seconds, with those of its earlier starts."""
        running, wanted = self._running.pop(number), self._wanted[self._stages[number].name]
        running.process.wait()
        running.reader.join(_LAST_LINES)
        before = self._note(number)
        seconds = time.monotonic() - running.began
        if wanted in (before.get("begun"), before.get("wanted")):
            seconds += before["seconds"]
        note = self._folder / f"{number:02}.json"
        write_text(note, json.dumps({"wanted" if done else "begun": wanted, "seconds": seconds}) + "\n")
        return seconds

    def _stop(self) -> None:
        """End what still runs."""
        for running in self._running.values():
            running.process.terminate()
        for number in [*self._running]:
            print(f"stopping: {self._stages[number].name} saves what it has", flush=True)
            self._end(number, done=False)

    def _note(self, number: int) -> dict[str, Any]:
        return read_json(self._folder / f"{number:02}.json") or {}


def _show(number: int, lines: IO[str]) -> None:
    for line in lines:
        with suppress(OSError):  # nobody looks any more; the stage must not wait for them
            sys.stdout.write(f"[{number}] {line}")
            sys.stdout.flush()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The signals to stop that have come so far; none of them ends the block."""
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda got, _: received.append(got)) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
