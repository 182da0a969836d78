"""The whole VPT pipeline in one command: record, train an IDM, label, train policies, report (fields: configs/demo.py).

Every stage is a separate process, started by a command that is printed and that you can run yourself. Run again, the
program skips finished stages and resumes stopped ones.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from demo.loop_report import Runs, write_loop_report
from demo.progress_report import ProgressPage, labelled_play, recorded_play
from demo.showcase_report import PLAYING, SCORES, write_showcase_report
from demo.stages import Stage, checkpoint, flags, make_stages, program
from ml_collections import ConfigDict

from vpt_jax.configs.record import CHOOSING_SEED, HELD_OUT_SEED, UNLABELLED_SEED
from vpt_jax.report.films import FilmFrame
from vpt_jax.system import command_line
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.printable import printable

ROOT = Path(__file__).parents[1]
stage, arguments = partial(program, ROOT), partial(flags, ROOT)
RECORD = "record the {} play"
PREPARE = "prepare the {} play with its true labels"
LABEL = "label the {} videos"
CLONE = "clone a policy from {}"
PREDICTED = "predicted labels"
HUMAN = "human"


def run(config: ConfigDict) -> None:
    """Run all stages that are not done, and write the report."""
    check(config)
    folder = Path(config.workdir).resolve()
    all_stages = list(stages(config, folder))
    pipeline = make_stages(config, all_stages, ROOT)
    runs = runs_of(config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    progress_page = ProgressPage(folder / "report.html", [stage.name for stage in all_stages], films_of(runs))
    seconds = pipeline.run(config.max_parallel, partial(preview, progress_page))
    write_report = write_loop_report if config.compare else write_showcase_report
    page, claims = write_report(folder, runs, seconds)
    print("\n" + "\n".join(claims) + f"\nfigures and films: {page}", flush=True)


def preview(progress_page: ProgressPage, seconds: Mapping[str, float]) -> None:
    """Write the progress page; a film that cannot be drawn must not end the stages."""
    try:
        progress_page.write(seconds)
    except Exception as error:  # of any kind: the page is rewritten soon, and replaced by the report at the end
        print(f"the progress page cannot be written: {printable(f'{type(error).__name__}: {error}')}", flush=True)


def check(config: ConfigDict) -> None:
    """Validate fields that would fail only in a later stage."""
    if any(setting.startswith("choice=") for setting in config.label):
        raise ConfigError(f"config.label is {config.label}: the report relies on the choice that each stage sets")
    for field in ("choosing", "held_out", *(() if config.compare else ("play_episodes",))):
        if config[field] < 1:
            raise ConfigError(f"config.{field} is {config[field]}: it needs at least one episode")
    if config.compare and config.space != "minerl":
        raise ConfigError(f"config.space is {config.space!r}: the comparison of policies is of MineRL's space")
    for name, extra in (("idm", 0), ("policy", 1)):
        minutes, steps = config[name].minutes, config[name].steps
        if len(steps) != len(minutes) + extra or not steps:
            raise ConfigError(
                f"config.{name}.steps is {steps}: it must have {len(minutes) + extra} numbers, one for each of "
                f"config.{name}.minutes, {minutes}" + (", and one for all the play" if extra else "")
            )
    if same := sorted({*config.policy.minutes} & {config.idm.minutes[-1]}):
        raise ConfigError(
            f"config.policy.minutes has {same[0]:g}, the last of config.idm.minutes: it is trained anyway"
        )


def stages(config: ConfigDict, folder: Path) -> Iterator[Stage]:
    """All stages. The dependencies of the policy from predicted labels come first, so that it starts early."""
    runs = runs_of(config, folder)
    yield from data_stages(config, folder, runs.held_out, runs.truth)
    *others, labelling = idm_stages(config, runs)
    yield labelling
    yield from label_stages(config, runs, labelling.name)
    yield from others[::-1]
    yield from policy_stages(config, runs)
    if not config.compare:
        yield from showcase_stages(config, folder, runs)


def data_stages(config: ConfigDict, folder: Path, labelled: Path, unlabelled: Path) -> Iterator[Stage]:
    """Stages that record all play, and prepare a dataset of the labelled one and of what else the config needs."""
    yield from record_stages(config, folder, config.stages.record)
    # The space of the recordings is MineRL's.
    space = {"space": config.space, "mapping": f"minerl-to-{config.space}"} if config.space != "minerl" else {}
    yield prepare_stage(config, folder, "labelled", labelled, **space)
    if config.compare:
        yield prepare_stage(config, folder, "unlabelled", unlabelled, **space)
    if config.human_demos:
        out = folder / "recordings" / HUMAN
        settings = ("--player=demos", *arguments(config.stages.record, config.record, out=out))
        yield stage(RECORD.format(HUMAN), "record.py", settings)
        fields = {"recordings": out / "train", "valid.fraction": 0.0} | space
        yield prepare_stage(config, folder, HUMAN, labelled.with_name(HUMAN), **fields)


def record_stages(config: ConfigDict, folder: Path, record: str) -> Iterator[Stage]:
    """Stages that record labelled and unlabelled play (its true labels are kept to compare with).

    Args:
        config: of a pipeline, with the numbers of episodes and `record`.
        folder: of the pipeline.
        record: config of the program, FILE:VARIANT.
    """
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
        settings = arguments(record, config.record, out=folder / "recordings" / name, **splits)
        yield stage(RECORD.format(name), "record.py", settings)


def prepare_stage(config: ConfigDict, folder: Path, name: str, out: Path, **fields: object) -> Stage:
    """Stage that prepares the play of a name into the dataset `out`, by further fields of configs/prepare.py."""
    all_fields = dict(recordings=folder / "recordings" / name, out=out, height=config.size, width=config.size) | fields
    settings = arguments("prepare", **all_fields)
    return stage(PREPARE.format(name), "prepare.py", settings, depends_on=[RECORD.format(name)])


def idm_stages(config: ConfigDict, runs: Runs) -> Iterator[Stage]:
    """Stages that train inverse dynamics models on increasing amounts of labelled play; the last one labels."""
    for (minutes, workdir), steps in zip(runs.idms.items(), config.idm.steps, strict=True):
        data = idm_data(config, runs, minutes) | held_out_data(runs.held_out)
        fields = data | {"workdir": workdir, "steps": steps, "report": minutes == config.idm.minutes[-1]}
        settings = arguments(config.stages.idm, config.train_idm, **fields)
        name = f"train an inverse dynamics model on {minutes:g} minutes"
        depends_on = [PREPARE.format(kind) for kind in ("labelled", *([HUMAN] if config.human_demos else []))]
        yield stage(name, "train.py", settings, depends_on, checkpoint(workdir, steps))


def idm_data(config: ConfigDict, runs: Runs, minutes: float) -> dict[str, object]:
    """Training data of an inverse dynamics model: labelled play, and people's games if the config says so."""
    if not config.human_demos:
        return {"data.train": runs.held_out, "data.minutes": minutes}
    recorded = {"dataset": str(runs.held_out), "minutes": minutes, "weight": 3}
    return {"data.mixture": (recorded, {"dataset": str(runs.held_out.with_name(HUMAN))})}


def held_out_data(dataset: Path) -> dict[str, Path]:
    """Datasets for choosing a step (split `valid`) and for the reported figures (split `test`)."""
    return {"data.valid": dataset, "data.test": dataset}


def label_stages(config: ConfigDict, runs: Runs, labelling: str) -> Iterator[Stage]:
    """Stages that label the unlabelled play for the policy, and the held-out play, twice, to measure the labels."""
    idm = list(runs.idms.values())[-1]
    # Sampled labels are as frequent as true ones; the most probable ones omit actions that the model is unsure of.
    for name, recorded, videos, out, choice in (
        ("unlabelled", "unlabelled", "unlabelled", runs.labels, "sample"),
        ("held-out", "labelled", "held-out", runs.held_out_labels, "argmax"),
        *([("held-out (mean angles)", "labelled", "held-out", runs.held_out_means, "mean")] if config.compare else []),
    ):
        fields = dict(videos=runs.recordings[videos], idm=idm, out=out, choice=choice, mirror=True)
        settings = arguments("label", config.label, **fields)
        yield stage(LABEL.format(name), "label.py", settings, [labelling, RECORD.format(recorded)])


def policy_stages(config: ConfigDict, runs: Runs) -> Iterator[Stage]:
    """Stages that train policies, which differ in their training data alone; on few minutes, also in their steps."""
    *fewer_steps, steps_of_all = config.policy.steps
    reduced_steps = dict(zip((f"{minutes:g} minutes" for minutes in config.policy.minutes), fewer_steps, strict=True))
    producers = {
        runs.held_out: PREPARE.format("labelled"),
        runs.truth: PREPARE.format("unlabelled"),
        runs.labels: LABEL.format("unlabelled"),
    }
    for name, (workdir, dataset, minutes) in runs.policies.items():
        steps = reduced_steps.get(name, steps_of_all)
        data = {"data.train": dataset, "data.minutes": minutes} | held_out_data(runs.held_out)
        fields = data | {"workdir": workdir, "steps": steps, "report": dataset == runs.labels}
        settings = arguments(config.stages.policy, config.train_policy, **fields)
        depends_on = dict.fromkeys([PREPARE.format("labelled"), producers[dataset]])
        yield stage(CLONE.format(name), "train.py", settings, depends_on, checkpoint(workdir, steps))


def showcase_stages(config: ConfigDict, folder: Path, runs: Runs) -> Iterator[Stage]:
    """Stages that score the labels of the held-out play, and in which the policy plays against the scripted player."""
    labels = dict(data=runs.held_out, split="test", labels=runs.held_out_labels, out=folder / SCORES)
    yield stage(
        "score the held-out labels", "data.py", ("score", *arguments("data", **labels)), [LABEL.format("held-out")]
    )
    workdir, _, _ = runs.policies[PREDICTED]
    fields = dict(policies=f"('policy={workdir}',)", out=folder / PLAYING, episodes=config.play_episodes)
    settings = arguments("evaluate", config.evaluate, **fields)
    yield stage("play against the scripted player", "evaluate.py", settings, [CLONE.format(PREDICTED)])


def films_of(runs: Runs) -> dict[str, Callable[[], Iterator[FilmFrame] | None]]:
    """Films of the progress page, by caption."""
    return {
        "Recorded play": partial(recorded_play, runs.recordings["held-out"]),
        "Labels of unlabelled play": partial(labelled_play, runs.labels, runs.recordings["unlabelled"]),
    }


def runs_of(config: ConfigDict, folder: Path) -> Runs:
    """Paths of the runs and datasets that the report compares."""
    small, truth = folder / "data" / "labelled", folder / "data" / "truth"
    policies = {PREDICTED: (folder / "policy-predicted", folder / "data" / "predicted", 0.0)}
    if config.compare:
        policies |= {
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
    command_line.run(run, "demo")
