"""A larger piece of work as stages: programs that run side by side, as far as they do not need one another."""

import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any, NamedTuple, NoReturn


class StageFailedError(RuntimeError):
    """A stage ended with an error; the message says which, and how to run it alone."""


class Stage(NamedTuple):
    """A program with its arguments, and what it needs."""

    name: str  # what it does, in words
    command: tuple[str, ...]
    after: tuple[str, ...] = ()  # names of the stages that have to be done before

    @property
    def shown(self) -> str:
        """What to type to run it alone."""
        return shlex.join(self.command)


class _Running(NamedTuple):
    process: subprocess.Popen[str]
    began: float


def run_stages(
    stages: Sequence[Stage], folder: Path, at_once: int, environment: Mapping[str, str], cwd: Path
) -> dict[str, float]:
    """Runs the stages that are not done, up to `at_once` of them side by side, the first of the list first.

    Each is a process of its own, whose lines are printed with its number. What is done is noted in `folder`, and run
    again only if its command, or that of a stage it needs, has changed. Stopped by SIGTERM or Ctrl-C, it stops the
    stages likewise and waits for them to save what they have.

    Returns:
      The seconds that each stage took, by name.

    Raises:
      StageFailedError: a stage ended with an error; the others have been stopped.
      KeyboardInterrupt: it was stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes = {stage.name: folder / f"{number:02}.json" for number, stage in enumerate(stages, 1)}
    wanted = _wanted(stages)
    seconds = {name: done["seconds"] for name in notes if (done := _read(notes[name])).get("wanted") == wanted[name]}
    running: dict[str, _Running] = {}

    def start(number: int, stage: Stage) -> None:
        print(f"\n[{number}/{len(stages)}] {stage.name}\n  {stage.shown}", flush=True)
        running[stage.name] = _Running(_start(number, stage, environment, cwd), time.monotonic())

    with _sigterm_as_ctrl_c(), _stopped_at_the_end(running):
        while len(seconds) < len(stages):
            for number, stage in enumerate(stages, 1):
                waits = stage.name not in seconds and stage.name not in running
                if waits and len(running) < at_once and seconds.keys() >= set(stage.after):
                    start(number, stage)
            time.sleep(0.05)
            for stage in stages:
                if stage.name in running and running[stage.name].process.poll() is not None:
                    seconds[stage.name] = _taken(stage, running.pop(stage.name))
                    _write(notes[stage.name], {"wanted": wanted[stage.name], "seconds": seconds[stage.name]})
    return {stage.name: seconds[stage.name] for stage in stages}


def _wanted(stages: Sequence[Stage]) -> dict[str, list[Any]]:
    """What a stage's result follows from: its command, less the Python that runs it, and the same of what it needs."""
    wanted: dict[str, list[Any]] = {}
    for stage in stages:
        wanted[stage.name] = [list(stage.command[1:]), [wanted[name] for name in stage.after]]
    return wanted


def _read(note: Path) -> dict[str, Any]:
    return json.loads(note.read_text()) if note.exists() else {}


def _write(note: Path, done: Mapping[str, Any]) -> None:
    temporary = note.with_suffix(".tmp")
    temporary.write_text(json.dumps(done) + "\n")
    os.replace(temporary, note)


def _start(number: int, stage: Stage, environment: Mapping[str, str], cwd: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(  # noqa: S603 - our own programs
        stage.command, cwd=cwd, env=dict(environment), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True,  # a Ctrl-C reaches this process alone, which then stops all stages the same way
    )  # fmt: skip
    threading.Thread(target=_show, args=(number, process.stdout), daemon=True).start()
    return process


def _show(number: int, lines: IO[str]) -> None:
    for line in lines:
        print(f"[{number}] {line}", end="", flush=True)


def _taken(stage: Stage, ended: _Running) -> float:
    if code := ended.process.returncode:
        raise StageFailedError(f"{stage.name}: ended with code {code}. Alone: {stage.shown}")
    return time.monotonic() - ended.began


@contextmanager
def _stopped_at_the_end(running: Mapping[str, _Running]) -> Iterator[None]:
    """Whatever ends the block, no stage goes on without it."""
    try:
        yield
    finally:
        for stage in running.values():
            stage.process.terminate()
        for stage in running.values():
            stage.process.wait()


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
