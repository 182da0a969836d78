"""Latent actions against an inverse dynamics model in one command: record, train, label, clone, compare.

Fields: configs/latent_demo.py. Stages are as in launch/pipeline.py: programs that you can run yourself, printed, and
skipped once they are done.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from demo.latent_report import Runs, write_experiments
from demo.stages import Stage, checkpoint, flags, make_stages, program, results_folder
from ml_collections import ConfigDict
from pipeline import LABEL, PREPARE, held_out_data, prepare_stage, record_stages

from vpt_jax.system import command_line
from vpt_jax.system.errors import ConfigError

ROOT = Path(__file__).parents[1]
CONFIGS = {"inverse dynamics": "idm:demo", "latent actions": "latent_idm:demo"}  # of the models that label
LATENT = "learn latent actions from the unlabelled frames"
stage, arguments = partial(program, ROOT), partial(flags, ROOT)


def run(config: ConfigDict) -> None:
    """Run all stages that are not done, and write and print the results."""
    check(config)
    folder = Path(config.workdir).resolve()
    runs = runs_of(config, folder)
    make_stages(config, stages(config, folder, runs), ROOT).run(config.max_parallel)
    print("\n" + "\n".join(write_experiments(results_folder(config), runs)), flush=True)


def check(config: ConfigDict) -> None:
    """Validate fields that would fail only in a later stage."""
    if len(config.steps) != len(config.minutes) or not config.steps:
        raise ConfigError(
            f"config.steps is {config.steps}: it must have a number for each of config.minutes, {config.minutes}"
        )
    for field in ("choosing", "held_out"):
        if config[field] < 1:
            raise ConfigError(f"config.{field} is {config[field]}: it needs at least one held-out episode")


def stages(config: ConfigDict, folder: Path, runs: Runs) -> Iterator[Stage]:
    """All stages; the long ones first."""
    yield from record_stages(config, folder, "record:demo")
    yield prepare_stage(config, folder, "labelled", runs.recorded)
    yield prepare_stage(config, folder, "unlabelled", runs.unlabelled)
    yield latent_stage(config, runs)
    for number, minutes in reversed([*enumerate(config.minutes)]):
        for name in CONFIGS:
            yield labeller_stage(config, runs, name, minutes, config.steps[number])
    for name in CONFIGS:
        yield from policy_stages(config, folder, runs, name)


def latent_stage(config: ConfigDict, runs: Runs) -> Stage:
    """Stage that learns latent actions; of the held-out play it reads the frames as well, to measure the decoder."""
    data = {"data.train": runs.unlabelled} | held_out_data(runs.recorded)
    fields = data | {"workdir": runs.latent, "steps": config.latent_steps}
    settings = arguments("latent_actions:demo", config.train_latent, **fields)
    depends_on = [PREPARE.format(name) for name in ("labelled", "unlabelled")]
    return stage(LATENT, "train.py", settings, depends_on, checkpoint(runs.latent, config.latent_steps))


def labeller_stage(config: ConfigDict, runs: Runs, name: str, minutes: float, steps: int) -> Stage:
    """Stage that trains a model to predict actions on some labelled minutes; the kinds differ in their config alone."""
    workdir, latent = runs.labellers[name][minutes], name == "latent actions"
    data = {"data.train": runs.recorded, "data.minutes": minutes} | held_out_data(runs.recorded)
    fields = data | {"workdir": workdir, "steps": steps, "report": False}
    fields |= {"init_from": runs.latent} if latent else {}
    settings = arguments(CONFIGS[name], config.train_labellers, **fields)
    depends_on = [PREPARE.format("labelled"), *([LATENT] if latent else [])]
    return stage(training(name, minutes), "train.py", settings, depends_on, checkpoint(workdir, steps))


def policy_stages(config: ConfigDict, folder: Path, runs: Runs, name: str) -> Iterator[Stage]:
    """Stages that label the unlabelled play with the model of the most minutes, and clone a policy from the labels."""
    minutes, workdir = config.minutes[-1], runs.policies[name]
    labels, videos = folder / "labels" / workdir.name, folder / "recordings" / "unlabelled" / "train"
    fields = dict(videos=videos, idm=runs.labellers[name][minutes], out=labels, choice="sample", mirror=True)
    labelling = f"{LABEL.format('unlabelled')} from {name}"
    yield stage(labelling, "label.py", arguments("label", config.label, **fields), [training(name, minutes)])
    data = {"data.train": labels} | held_out_data(runs.recorded)
    settings = arguments(
        "foundation:demo", config.train_policy, **data, workdir=workdir, steps=config.policy_steps, report=False
    )  # fmt: skip
    done = checkpoint(workdir, config.policy_steps)
    yield stage(f"clone a policy from the labels of {name}", "train.py", settings, [labelling], done)


def training(name: str, minutes: float) -> str:
    """Name of the stage that trains a model that labels."""
    return f"train {name} on {minutes:g} minutes"


def runs_of(config: ConfigDict, folder: Path) -> Runs:
    """Paths of the runs and datasets that are compared."""
    short = {"inverse dynamics": "idm", "latent actions": "latent-idm"}
    return Runs(
        recorded=folder / "data" / "labelled",
        unlabelled=folder / "data" / "unlabelled",
        latent=folder / "latent-actions",
        labellers={
            name: {minutes: folder / f"{short[name]}-{minutes:g}" for minutes in config.minutes} for name in CONFIGS
        },
        policies={name: folder / f"policy-{short[name]}" for name in CONFIGS},
    )


if __name__ == "__main__":
    command_line.run(run, "latent_demo")
