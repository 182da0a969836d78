"""The whole loop in one command: record, train an IDM, label, train policies, report (fields: configs/demo.py).

Every stage is a process of its own, started by a command that you can run yourself; it is printed. A stage that is done
is skipped the next time, and one that was stopped goes on.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from vpt_jax.report.films import Moment
from vpt_jax.report.loop import Runs, write_loop_report
from vpt_jax.report.progress import ProgressPage, labelled_play, recorded_play
from vpt_jax.stages import Stage, StageFailedError, Stages, checkpoint, environment, flags, program
from vpt_jax.system import command_line
from vpt_jax.system.printable import printable

ROOT = Path(__file__).parents[1]
stage, arguments = partial(program, ROOT), partial(flags, ROOT)
RECORD = "record the {} play"
PREPARE = "prepare the {} play with its true labels"
LABEL = "label the {} videos"
# Of their first episodes; the labelled play's count up from 0.
UNLABELLED_SEED = 500_000
HELD_OUT_SEED = 3_000_000  # what the settings of the demo were chosen on had others
CHOOSING_SEED = 3_500_000


class ConfigError(ValueError):
    """A field of the config has a value that cannot be; the message says which can."""


def run(config: ConfigDict) -> None:
    check(config)
    folder = Path(config.workdir).resolve()
    todo = list(stages(config, folder))
    runs = runs_of(config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    so_far = ProgressPage(folder / "report.html", [stage.name for stage in todo], films_of(runs))
    running = Stages(todo, folder / "stages", environment(folder, config.at_once), ROOT)
    seconds = running.run(config.at_once, partial(preview, so_far))
    page, verdicts = write_loop_report(folder, runs, seconds)
    print("\n" + "\n".join(verdicts) + f"\nfigures and films: {page}", flush=True)


def preview(so_far: ProgressPage, seconds: Mapping[str, float]) -> None:
    """Write the page of what there is so far; a film that cannot be drawn must not end the stages."""
    try:
        so_far.write(seconds)
    except Exception as error:  # whatever it is, the page is written anew soon, and by the report at the end
        print(f"no page of what is done so far: {printable(f'{type(error).__name__}: {error}')}", flush=True)


def check(config: ConfigDict) -> None:
    """Find what would fail only when its turn comes."""
    if config.at_once < 1:
        raise ConfigError(f"config.at_once is {config.at_once}: at least one stage must run")
    if any(setting.startswith("choice=") for setting in config.label):
        raise ConfigError(f"config.label is {config.label}: each pile has its own choice, which the report relies on")
    for field in ("choosing", "held_out"):
        if config[field] < 1:
            raise ConfigError(f"config.{field} is {config[field]}: at least one held-out episode must be there for it")
    for name, extra in (("idm", 0), ("policy", 1)):
        minutes, steps = config[name].minutes, config[name].steps
        if len(steps) != len(minutes) + extra or not steps:
            raise ConfigError(
                f"config.{name}.steps is {steps}: it must have {len(minutes) + extra} numbers, one for each of "
                f"config.{name}.minutes, {minutes}" + (", and one for all the play" if extra else "")
            )


def stages(config: ConfigDict, folder: Path) -> Iterator[Stage]:
    """All stages. What the policy from predicted labels waits for comes first, so that it is not waited for."""
    runs = runs_of(config, folder)
    yield from data_stages(config, folder, runs)
    *others, labelling = idm_stages(config, runs)
    yield labelling
    yield from label_stages(config, runs, labelling.name)
    yield from others[::-1]
    yield from policy_stages(config, runs)


def data_stages(config: ConfigDict, folder: Path, runs: Runs) -> Iterator[Stage]:
    """Play is recorded twice: with labels to learn from, and without (they are kept for scoring and for the twin)."""
    recorded = {
        "labelled": {
            "splits.train.episodes": config.labelled,
            "splits.valid.episodes": config.choosing,
            "splits.valid.seed": CHOOSING_SEED,
            "splits.test.episodes": config.held_out,
            "splits.test.seed": HELD_OUT_SEED,
        },
        "unlabelled": {
            "splits.train.episodes": config.unlabelled,
            "splits.valid.episodes": 0,
            "splits.test.episodes": 0,
            "splits.train.seed": UNLABELLED_SEED,
        },
    }
    for name, splits in recorded.items():
        settings = arguments("record:demo", config.record, out=folder / "recordings" / name, **splits)
        yield stage(RECORD.format(name), "record.py", settings)
    for name, out in (("labelled", runs.held_out), ("unlabelled", runs.truth)):
        fields = dict(recordings=folder / "recordings" / name, out=out, height=config.size, width=config.size)
        yield stage(PREPARE.format(name), "prepare.py", arguments("prepare", **fields), after=[RECORD.format(name)])


def idm_stages(config: ConfigDict, runs: Runs) -> Iterator[Stage]:
    """Models of inverse dynamics on ever more of the labelled play; the last one labels."""
    for (minutes, workdir), steps in zip(runs.idms.items(), config.idm.steps, strict=True):
        data = {"data.train": runs.held_out, "data.minutes": minutes} | held_out_data(runs)
        fields = data | {"workdir": workdir, "steps": steps, "report": minutes == config.idm.minutes[-1]}
        settings = arguments("idm:demo", config.train_idm, **fields)
        name = f"train an inverse dynamics model on {minutes:g} minutes"
        yield stage(name, "train.py", settings, [PREPARE.format("labelled")], checkpoint(workdir, steps))


def held_out_data(runs: Runs) -> dict[str, Path]:
    """The data that choose a step (split `valid`) and that are reported of it (`test`)."""
    return {"data.valid": runs.held_out, "data.test": runs.held_out}


def label_stages(config: ConfigDict, runs: Runs, labelling: str) -> Iterator[Stage]:
    """Both piles are labelled: the unlabelled one for the policy, the held-out one, twice, to measure the labels."""
    idm = list(runs.idms.values())[-1]
    # Drawn labels are as frequent as true ones; the most probable ones leave out what the model is unsure of.
    for name, pile, videos, out, choice in (
        ("unlabelled", "unlabelled", "unlabelled", runs.labels, "sample"),
        ("held-out", "labelled", "held-out", runs.held_out_labels, "argmax"),
        ("held-out (mean angles)", "labelled", "held-out", runs.held_out_means, "mean"),
    ):
        fields = dict(videos=runs.recordings[videos], idm=idm, out=out, choice=choice, mirror=True)
        settings = arguments("label", config.label, **fields)
        yield stage(LABEL.format(name), "label.py", settings, [labelling, RECORD.format(pile)])


def policy_stages(config: ConfigDict, runs: Runs) -> Iterator[Stage]:
    """Policies that differ in nothing but what they are cloned from, and on little of it, for how long."""
    *fewer_steps, steps_of_all = config.policy.steps
    fewer = dict(zip((f"{minutes:g} minutes" for minutes in config.policy.minutes), fewer_steps, strict=True))
    made_by = {
        runs.held_out: PREPARE.format("labelled"),
        runs.truth: PREPARE.format("unlabelled"),
        runs.labels: LABEL.format("unlabelled"),
    }
    for name, (workdir, dataset, minutes) in runs.policies.items():
        steps = fewer.get(name, steps_of_all)
        data = {"data.train": dataset, "data.minutes": minutes} | held_out_data(runs)
        fields = data | {"workdir": workdir, "steps": steps, "report": dataset == runs.labels}
        settings = arguments("foundation:demo", config.train_policy, **fields)
        after = dict.fromkeys([PREPARE.format("labelled"), made_by[dataset]])
        yield stage(f"clone a policy from {name}", "train.py", settings, after, checkpoint(workdir, steps))


def films_of(runs: Runs) -> dict[str, Callable[[], Iterator[Moment] | None]]:
    """Films to see before the end, by caption."""
    return {
        "Recorded play": partial(recorded_play, runs.recordings["held-out"]),
        "Labels of unlabelled play": partial(labelled_play, runs.labels, runs.recordings["unlabelled"]),
    }


def runs_of(config: ConfigDict, folder: Path) -> Runs:
    """Where everything is that the report compares."""
    small, truth = folder / "data" / "labelled", folder / "data" / "truth"
    policies = {
        "predicted labels": (folder / "policy-predicted", folder / "data" / "predicted", 0.0),
        "true labels": (folder / "policy-true", truth, 0.0),
        "the small labelled set": (folder / "policy-small", small, config.idm.minutes[-1]),
    }
    for minutes in config.policy.minutes:
        policies[f"{minutes:g} minutes"] = (folder / f"policy-{minutes:g}", truth, minutes)
    return Runs(
        idms={minutes: folder / f"idm-{minutes:g}" for minutes in config.idm.minutes},
        policies=policies,
        held_out=small,
        held_out_labels=folder / "data" / "held_out",
        held_out_means=folder / "data" / "held_out_means",
        truth=truth,
        labels=folder / "data" / "predicted",
        recordings={
            "held-out": folder / "recordings" / "labelled" / "test",
            "unlabelled": folder / "recordings" / "unlabelled" / "train",
        },
    )


if __name__ == "__main__":
    command_line.run(run, "configs/demo.py", (ConfigError, StageFailedError))
