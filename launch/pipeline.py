"""The whole loop in one command: record, train an IDM, label, train policies, report (fields: configs/demo.py).

Every stage is a process of its own, started by a command that you can run yourself; it is printed. A stage that is done
is skipped the next time, and one that was stopped goes on.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from ml_collections import ConfigDict

from vpt_jax import command_line
from vpt_jax.report.loop import Runs, write_loop_report

ROOT = Path(__file__).parents[1]
UNLABELLED_SEED = 500_000  # of its first episode; the labelled play's count up from 0


class StageFailedError(RuntimeError):
    """A stage ended with an error; the message says which, and how to run it alone."""


class Stage(NamedTuple):
    """A program with its arguments."""

    name: str  # what it does, in words
    program: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> list[str]:
        """What to start."""
        return [sys.executable, str(ROOT / "launch" / self.program), *self.arguments]


def run(config: ConfigDict) -> None:
    folder = Path(config.workdir).resolve()
    (folder / "stages").mkdir(parents=True, exist_ok=True)
    runs, todo = runs_of(config, folder), list(stages(config, folder))
    seconds = {}
    for number, stage in enumerate(todo, 1):
        note = folder / "stages" / f"{number:02}.json"
        wanted = {"program": stage.program, "arguments": list(stage.arguments)}
        done = json.loads(note.read_text()) if note.exists() else {}
        if {name: done.get(name) for name in wanted} != wanted:
            print(f"\n[{number}/{len(todo)}] {stage.name}\n  {shlex.join(stage.command)}", flush=True)
            began = time.monotonic()
            follow(stage, folder / "compiled")
            done = wanted | {"seconds": time.monotonic() - began}
            note.write_text(json.dumps(done) + "\n")
        seconds[stage.name] = done["seconds"]
    page, verdicts = write_loop_report(folder, runs, seconds)
    print("\n" + "\n".join(verdicts) + f"\nfigures and films: {page}", flush=True)


def follow(stage: Stage, compiled: Path) -> None:
    """Runs a stage to its end, and passes on what is to end this process."""
    environment = {
        # Stages of the same model find its program compiled.
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        # Without an accelerator: two devices share a small model's step better than a device's threads do.
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    process = subprocess.Popen(stage.command, cwd=ROOT, env=environment | os.environ)  # noqa: S603 - our own programs
    stopped = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        stopped.append(number)
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the stage has got it as well, and saves first
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if stopped:
        raise KeyboardInterrupt
    if code:
        raise StageFailedError(f"{stage.name}: ended with code {code}. Alone: {shlex.join(stage.command)}")


def stages(config: ConfigDict, folder: Path) -> Iterator[Stage]:
    """All stages, in order."""
    runs = runs_of(config, folder)
    yield from data_stages(config, folder, runs)
    for (minutes, workdir), steps in zip(runs.idms.items(), config.idm.steps, strict=True):
        data = {"data.train": runs.held_out, "data.valid": runs.held_out, "data.minutes": minutes}
        flags = arguments("idm:demo", more=config.train_idm, workdir=workdir, steps=steps, **data)
        yield Stage(f"train an inverse dynamics model on {minutes:g} minutes", "train.py", flags)

    idm = list(runs.idms.values())[-1]
    # Drawn labels are as frequent as true ones; the most probable ones leave out what the model is unsure of.
    for name, out, choice in (("unlabelled", runs.labels, "sample"), ("held_out", runs.held_out_labels, "argmax")):
        flags = arguments("label", more=config.label, videos=runs.recordings[name], idm=idm, out=out, choice=choice)
        yield Stage(f"label the {name.replace('_', '-')} videos", "label.py", flags)

    for name, (workdir, dataset, minutes) in runs.policies.items():
        data = {"data.train": dataset, "data.valid": runs.held_out, "data.minutes": minutes}
        flags = arguments("foundation:demo", more=config.train_policy, workdir=workdir, **data)
        yield Stage(f"clone a policy from {name}", "train.py", flags)


def data_stages(config: ConfigDict, folder: Path, runs: Runs) -> Iterator[Stage]:
    """Play is recorded twice: with labels to learn from, and without (they are kept for scoring and for the twin)."""
    labelled, unlabelled = folder / "recordings" / "labelled", folder / "recordings" / "unlabelled"
    counts = {"splits.train.episodes": config.labelled, "splits.valid.episodes": config.held_out}
    flags = arguments("record:demo", more=config.record, out=labelled, **counts)
    yield Stage("record the labelled play", "record.py", flags)
    counts = {"splits.train.episodes": config.unlabelled, "splits.valid.episodes": 0}
    counts["splits.train.seed"] = UNLABELLED_SEED
    flags = arguments("record:demo", more=config.record, out=unlabelled, **counts)
    yield Stage("record the unlabelled play", "record.py", flags)

    for name, recordings, out in (("labelled", labelled, runs.held_out), ("unlabelled", unlabelled, runs.truth)):
        flags = arguments("prepare", recordings=recordings, out=out, height=config.size, width=config.size)
        yield Stage(f"prepare the {name} play with its true labels", "prepare.py", flags)


def arguments(config: str, more: tuple[str, ...] = (), **fields: object) -> tuple[str, ...]:
    """Flags for a config file and its variant; `more` come last."""
    name, _, variant = config.partition(":")
    file = f"--config={ROOT / 'configs' / name}.py" + (f":{variant}" if variant else "")
    return (file, *(f"--config.{field}={value}" for field, value in fields.items()), *(f"--config.{m}" for m in more))


def runs_of(config: ConfigDict, folder: Path) -> Runs:
    """Where everything is that the report compares."""
    small, truth = folder / "data" / "labelled", folder / "data" / "truth"
    policies = {
        "predicted labels": (folder / "policy-predicted", folder / "data" / "predicted", 0.0),
        "true labels": (folder / "policy-true", truth, 0.0),
        "the small labelled set": (folder / "policy-small", small, 0.0),
    }
    for minutes in config.policy.minutes:
        policies[f"{minutes:g} minutes"] = (folder / f"policy-{minutes:g}", truth, minutes)
    return Runs(
        idms={minutes: folder / f"idm-{minutes:g}" for minutes in config.idm.minutes},
        policies=policies,
        held_out=small,
        held_out_labels=folder / "data" / "held_out",
        truth=truth,
        labels=folder / "data" / "predicted",
        recordings={
            "held_out": folder / "recordings" / "labelled" / "valid",
            "unlabelled": folder / "recordings" / "unlabelled" / "train",
        },
    )


if __name__ == "__main__":
    command_line.run(run, "configs/demo.py", (StageFailedError,))
