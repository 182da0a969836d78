"""The whole loop in one command: record, train an IDM, label, train policies, report (fields: configs/demo.py).

Every stage is a process of its own, started by a command that you can run yourself; it is printed. A stage that is done
is skipped the next time, and one that was stopped goes on.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ml_collections import ConfigDict

from vpt_jax import command_line
from vpt_jax.report.loop import Runs, write_loop_report
from vpt_jax.stages import Stage, StageFailedError, run_stages

ROOT = Path(__file__).parents[1]
RECORD = "record the {} play"
PREPARE = "prepare the {} play with its true labels"
LABEL = "label the {} videos"
UNLABELLED_SEED = 500_000  # of its first episode; the labelled play's count up from 0


def run(config: ConfigDict) -> None:
    folder = Path(config.workdir).resolve()
    todo = list(stages(config, folder))
    seconds = run_stages(todo, folder / "stages", config.at_once, environment(config, folder), ROOT)
    page, verdicts = write_loop_report(folder, runs_of(config, folder), seconds)
    print("\n" + "\n".join(verdicts) + f"\nfigures and films: {page}", flush=True)


def environment(config: ConfigDict, folder: Path) -> dict[str, str]:
    """Of all stages; what is set where this program is started comes first."""
    settings = {
        # Stages of the same model find its program compiled.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    if config.at_once > 1:  # each on a core of its own: threads of two stages would wait for one another
        settings["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    return settings | os.environ


def stages(config: ConfigDict, folder: Path) -> Iterator[Stage]:
    """All stages. What the policy from predicted labels waits for comes first, so that it is not waited for."""
    runs = runs_of(config, folder)
    yield from data_stages(config, folder, runs)
    *others, labelling = idm_stages(config, runs)
    yield labelling
    yield from label_stages(config, runs, labelling.name)
    yield from policy_stages(config, runs)
    yield from others


def data_stages(config: ConfigDict, folder: Path, runs: Runs) -> Iterator[Stage]:
    """Play is recorded twice: with labels to learn from, and without (they are kept for scoring and for the twin)."""
    recorded = {
        "labelled": {"splits.train.episodes": config.labelled, "splits.valid.episodes": config.held_out},
        "unlabelled": {
            "splits.train.episodes": config.unlabelled,
            "splits.valid.episodes": 0,
            "splits.train.seed": UNLABELLED_SEED,
        },
    }
    for name, splits in recorded.items():
        out = folder / "recordings" / name
        yield stage(RECORD.format(name), "record.py", "record:demo", (), config.record, out=out, **splits)
    for name, out in (("labelled", runs.held_out), ("unlabelled", runs.truth)):
        fields = dict(recordings=folder / "recordings" / name, out=out, height=config.size, width=config.size)
        yield stage(PREPARE.format(name), "prepare.py", "prepare", (RECORD.format(name),), **fields)


def idm_stages(config: ConfigDict, runs: Runs) -> Iterator[Stage]:
    """Models of inverse dynamics on ever more of the labelled play; the last one labels."""
    after = (PREPARE.format("labelled"),)
    for (minutes, workdir), steps in zip(runs.idms.items(), config.idm.steps, strict=True):
        data = {"data.train": runs.held_out, "data.valid": runs.held_out, "data.minutes": minutes}
        fields = data | {"workdir": workdir, "steps": steps, "report": minutes == config.idm.minutes[-1]}
        name = f"train an inverse dynamics model on {minutes:g} minutes"
        yield stage(name, "train.py", "idm:demo", after, config.train_idm, **fields)


def label_stages(config: ConfigDict, runs: Runs, labelling: str) -> Iterator[Stage]:
    """Both piles are labelled: the unlabelled one for the policy, the held-out one to measure the labels."""
    idm = list(runs.idms.values())[-1]
    # Drawn labels are as frequent as true ones; the most probable ones leave out what the model is unsure of.
    for name, pile, out, choice in (
        ("unlabelled", "unlabelled", runs.labels, "sample"),
        ("held-out", "labelled", runs.held_out_labels, "argmax"),
    ):
        fields = dict(videos=runs.recordings[name], idm=idm, out=out, choice=choice)
        yield stage(LABEL.format(name), "label.py", "label", (labelling, RECORD.format(pile)), config.label, **fields)


def policy_stages(config: ConfigDict, runs: Runs) -> Iterator[Stage]:
    """Policies that differ in what they are cloned from alone."""
    prepared = (PREPARE.format("labelled"), PREPARE.format("unlabelled"))
    steps = {f"{minutes:g} minutes": number for minutes, number in zip(*config.policy.values(), strict=True)}
    for name, (workdir, dataset, minutes) in runs.policies.items():
        after = (*prepared, LABEL.format("unlabelled")) if dataset == runs.labels else prepared
        fields = {"data.train": dataset, "data.valid": runs.held_out, "data.minutes": minutes, "workdir": workdir}
        fields |= {"report": dataset == runs.labels} | ({"steps": steps[name]} if name in steps else {})
        yield stage(f"clone a policy from {name}", "train.py", "foundation:demo", after, config.train_policy, **fields)


def stage(
    name: str, program: str, config: str, after: tuple[str, ...], more: tuple[str, ...] = (), **fields: object
) -> Stage:
    """A program of launch/ with a config file and its variant; `more` settings come last."""
    file, _, variant = config.partition(":")
    flag = f"--config={ROOT / 'configs' / file}.py" + (f":{variant}" if variant else "")
    flags = (f"--config.{setting}" for setting in (*(f"{field}={value}" for field, value in fields.items()), *more))
    return Stage(name, (sys.executable, str(ROOT / "launch" / program), flag, *flags), after)


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
            "held-out": folder / "recordings" / "labelled" / "valid",
            "unlabelled": folder / "recordings" / "unlabelled" / "train",
        },
    )


if __name__ == "__main__":
    command_line.run(run, "configs/demo.py", (StageFailedError,))
