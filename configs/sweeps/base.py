"""Fields common to all sweeps, and the stages on the embedded game that several of them have (launch/sweep.py).

A sweep is a chain of stages, each a program of launch/ with its config, and values that are varied: every combination
of them, with every seed, is a run. Stages that are equal in several runs are done once. Without varied values, it is a
chain of stages alone, whose last program may write the result itself (`report.file`).

Variants of all sweeps: `:demo` (default), for minutes on two cores; `:full`, the paper's sizes on data of your own,
whose folders are in `folders`; and `:small`, to try it out in a minute.
"""

from ml_collections import ConfigDict

from vpt_jax.configs.record import CHOOSING_SEED, HELD_OUT_SEED, UNLABELLED_SEED

VARIANTS = ("demo", "full", "small")


def get_config(name: str, variant: str) -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/sweeps/{name}.py has no variant {variant!r}; choose one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    # Name of the sweep; its results are in WORKDIR/NAME: table.parquet (a row for each run) and report.html (curves
    # with intervals, fits and verdicts).
    config.name = name
    # Folder of all stages and results. Sweeps in the same folder share the stages that are equal, such as the recorded
    # play, also if they run at the same time.
    config.workdir = "runs/sweeps"
    # Folder of the result file, NAME.json, for a page of several experiments; empty: WORKDIR/results.
    config.result_files = ""
    # Stages that run in parallel on this machine, one processor core each. Use 1 with an accelerator.
    config.max_parallel = 2
    # Runs of this process: empty, all; a number, the run with this index, counted from 0, for one task of a Slurm
    # array, of an indexed Job or of Ray; "shared", only the stages that several runs need. A stage that another process
    # is working on is waited for, by a lock (flock) in the work directory: where the disk that the machines share has
    # no locks, run "shared" first.
    config.index = ""
    # Address of a Ray cluster ("auto": that of this machine), whose machines share the work directory's disk: every run
    # is a task there. Empty: the runs are processes of this machine.
    config.ray_address = ""
    # What a run takes of Ray's machines.
    config.ray_resources = ConfigDict({"num_cpus": 2.0, "num_gpus": 0.0})
    # Seeds: each run is repeated with every one, given as the field `seed` to the stages in `seeded`. Intervals are
    # over these runs.
    config.seeds = (0,) if variant == "small" else (0, 1, 2)
    config.seeded = ("policy",)
    # Varied values, by a short name: `fields`, each STAGE.FIELD, and `choices`. All combinations of all names are run.
    # Runs that are listed instead are one name with several fields, whose choices are tuples of a value for each.
    config.vary = ConfigDict()
    # Stages of a run by name: `program` of launch/, `config` in configs/, and `settings`, each FIELD=VALUE. {STAGE} in
    # a value is the output folder of another stage, {STAGE*} its folders in all runs, as NAME=FOLDER; {NAME} that of
    # `folders`. The output folder of the stage itself is set in addition.
    config.stages = ConfigDict()
    # Folders that exist before the sweep, by the name that settings have in braces.
    config.folders = ConfigDict()
    config.report = _report()
    return config


def _report() -> ConfigDict:
    """Texts and measure of the result, an `Experiment` of vpt_jax/report/experiments.py."""
    report = ConfigDict()
    # Title; the paper's claim, and its section or figure with how far that is trusted.
    report.title = report.claim = report.source = ""
    # File in the folder of `stage` that is the result; empty: it is made of the runs, by the fields below. A program
    # that writes such a file measures a single run, so nothing varies.
    report.file = ""
    # Stage that is measured, and its metric: of `train`, a metric of the held-out split `test`, at the step with the
    # lowest loss on `valid`; of `evaluate`, one of figures.json.
    report.stage, report.metric = "policy", "nll"
    report.higher_is_better = False
    # Varied name on the x axis, or "parameters", their number in the measured model. A logarithmic axis has a fit of a
    # power law, if there are three or more x.
    report.x, report.log_x = "", False
    # Varied names with a curve for each combination of their values. Empty: all but x; of "parameters", none.
    report.series = ()
    # Axis labels.
    report.x_label, report.y_label = "", "loss on held-out play, nats per frame"
    # Expectations of every curve: pairs of x, the first better than the second. Empty: the last x (the largest number,
    # or the last choice) is better than the first.
    report.better = ()
    # What a reader has to know.
    report.notes = ()
    return report


def stage(program: str, config: str, *settings: str) -> ConfigDict:
    """A stage of `config.stages`."""
    return ConfigDict({"program": program, "config": config, "settings": settings})


def add_play(config: ConfigDict, variant: str) -> None:
    """The dataset `data` of labelled play: stages that record an hour of the embedded game, or a folder of your own.

    It has captions, which only policies with `data.text_embedder` read.
    """
    if variant == "full":
        config.folders.data = "data/contractor"
        return
    train, valid, test = (5, 1, 2) if variant == "small" else (68, 4, 12)
    config.stages.recordings = stage(
        "record", "record:demo", *_episode_length(variant), f"splits.train.episodes={train}",
        f"splits.valid.episodes={valid}", f"splits.valid.seed={CHOOSING_SEED}", f"splits.test.episodes={test}",
        "captions=True", f"splits.test.seed={HELD_OUT_SEED}",
    )  # fmt: skip
    config.stages.data = stage("prepare", "prepare", "recordings={recordings}", "height=16", "width=16")


def add_labels(config: ConfigDict, variant: str) -> None:
    """Stages `idm` and `labels`: pseudo-labels of an hour and a half of other play, or of videos of your own."""
    if variant == "full":
        config.folders.videos = "data/videos"
        config.stages.labels = stage("label", "label", "videos={videos}", "idm={idm}")
    else:
        episodes = 5 if variant == "small" else 100
        config.stages.videos = stage(
            "record", "record:demo", *_episode_length(variant), f"splits.train.episodes={episodes}",
            f"splits.train.seed={UNLABELLED_SEED}", "splits.valid.episodes=0", "splits.test.episodes=0",
        )  # fmt: skip
        small = ("windows_per_span=3", "batch=2") if variant == "small" else ()
        config.stages.labels = stage(
            "label", "label", "videos={videos}/train", "idm={idm}", "mirror=True", "num_films=0", *small
        )
    config.stages.idm = training_stage("idm", variant, "steps=600", "evaluate_every=100")


def training_stage(kind: str, variant: str, *length: str, train: str = "{data}") -> ConfigDict:
    """A policy or an inverse dynamics model (`kind`: "policy" or "idm"), measured on the held-out play of `data`.

    `length` has the settings of the demo's, "steps" and "evaluate_every"; the full size has those of its config.
    """
    file, size = {"policy": ("foundation", "71m"), "idm": ("idm", "paper")}[kind]
    data = f"data.train={train}", "data.valid={data}", "data.test={data}"
    if variant == "full":
        return stage("train", f"{file}:{size}", *data)
    return stage("train", f"{file}:demo", *data, "report=False", *(_SMALL if variant == "small" else length))


def policy_stage(variant: str, train: str = "{data}") -> ConfigDict:
    """A policy, cloned from the dataset `train`.

    That of the demo takes about two minutes on a core: all runs of configs/paper.py have to end in three hours.
    """
    return training_stage("policy", variant, "steps=240", "evaluate_every=80", train=train)


_SMALL = (
    "steps=4", "model.preset=nano", "data.batch=4", "data.valid_batch=8", "evaluate_every=2",
    "optimizer.warmup_steps=1",
)  # fmt: skip


def _episode_length(variant: str) -> tuple[str, ...]:
    return ("seconds=6.0",) if variant == "small" else ()
