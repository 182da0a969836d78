"""Training runs on recorded play (behavioural cloning, IDM, latent actions): data, baselines, evaluation and report.

The functions are in the order of execution.
"""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.actions.space import ActionSpace
from vpt_jax.actions.spaces import load_mapping
from vpt_jax.data.batch import Batch
from vpt_jax.data.embeddings import EmbeddedStream, Encoder, write_embeddings
from vpt_jax.data.entries import MIXTURE_OPTIONS, VALID_OPTIONS, DatasetEntry, read_entries
from vpt_jax.data.mixture import MixtureStream, WindowMixture, require_equal_data, split_rows
from vpt_jax.data.read_ahead import read_ahead
from vpt_jax.data.streams import NULL_RULES, Part, Stream, StreamSettings, WindowStream, batches
from vpt_jax.data.text_embedders import TextEmbedderError, load_text_embedder
from vpt_jax.data.text_tables import write_text_table
from vpt_jax.data.trainable import require_trainable
from vpt_jax.evaluation.copycat import INPUTS, INPUTS_WITH_TEXT, copycat_losses
from vpt_jax.evaluation.metrics import evaluator, group_name
from vpt_jax.evaluation.resampling import Figure
from vpt_jax.models.policy import embed, init_params
from vpt_jax.models.presets import make_policy
from vpt_jax.parallel import log
from vpt_jax.report.training import HeldOut, write_report
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.checkpoints import STEPS_PER_EPOCH, run_metadata
from vpt_jax.training.digests import params_digest
from vpt_jax.training.loop import Schedule, StopSignal
from vpt_jax.training.metrics_log import Work, read_metrics
from vpt_jax.training.objective import Objective
from vpt_jax.training.profiling import profiled
from vpt_jax.training.roofline import CHIPS
from vpt_jax.training.run import LoopInputs, Run
from vpt_jax.training.setup import (
    Setup,
    batch_shapes,
    check,
    frozen_pattern,
    initial_params,
    make_setup,
    training_flops,
)
from vpt_jax.training.stages import MODEL_OF_STAGE, POLICY, STAGES, head_statistics
from vpt_jax.training.state import TrainState


class RunData(NamedTuple):
    """Data of a run."""

    train: Stream | MixtureStream
    valid: dict[str, Stream]  # by name, of which the first selects the checkpoint; the only one has the name ""
    test: Stream | None  # for reports (None without `config.data.test`)

    def with_frames(self) -> "RunData":
        """The same data with frames in place of embeddings."""
        train = self.train
        return RunData(
            train.with_streams(with_frames) if isinstance(train, MixtureStream) else with_frames(train),
            {name: with_frames(stream) for name, stream in self.valid.items()},
            self.test and with_frames(self.test),
        )


Baselines = Mapping[str, Mapping[str, Mapping[str, float]]]  # metrics by name of the validation set and of the baseline


def make_supervised_run(config: ConfigDict, mesh: Mesh) -> Run[TrainState]:
    """Run of behavioural cloning or inverse dynamics that a config describes.

    Raises:
        ConfigError: a field is invalid, or does not fit the data.
    """
    check(config, mesh)
    check_run(config)

    # Data
    data = open_data(config)
    train_data, statistics = data.train, head_statistics(config)
    space = train_data.space
    baselines = {name: statistics.baselines(train_data, valid_data) for name, valid_data in data.valid.items()}
    test_baselines = statistics.baselines(train_data, data.test) if data.test else {}
    steps = count_steps(config, train_data)
    log(
        f"{train_data.num_episodes} training episodes of {train_data.num_frames:,} frames (null actions: "
        f"{config.data.null_actions}); {steps:,} steps, {train_data.steps_per_epoch:,} per epoch"
    )
    for name, description in describe_mixture(train_data, steps).items():
        log(f"  {name}: {description}")

    # Model and shardings
    marginal = statistics.marginal.from_stream(train_data)
    setup = make_setup(config, mesh, train_data.frame_shape, marginal, steps, space)
    table = Path(config.workdir) / "sharding.txt"
    log(f"{count_parameters(setup.shapes.params):,} parameters; shardings: {table}; compiling ...")

    @contextmanager
    def open_inputs(state: TrainState, stop: StopSignal) -> Iterator[LoopInputs]:
        del stop  # the loop asks it after every step: batches are quick
        evaluate = make_evaluator(config, setup.objective, data, mesh, baselines)
        with (
            read_ahead(placed_batches(train_data, mesh, int(state.step), steps, config.data.workers)) as train_batches,
            profiled(setup.step, config.profile_dir) as train_step,
        ):
            prepare = partial(compile_step, config, setup, mesh, train_data)
            yield LoopInputs(train_step, train_batches, evaluate, train_data.episodes, prepare)

    def report(state: TrainState) -> None:
        if STAGES[config.stage].predicts_actions and config.report and jax.process_count() == 1:
            write_page(config, setup.objective, state, data.with_frames(), baselines, test_baselines, mesh)

    return Run(
        schedule=Schedule(steps, config.log_every, config.evaluate_every, config.save_every),
        work=make_work(config, train_data),
        metadata=run_metadata(config, train_data.fingerprint(), frozen_pattern(config), space)
        | {STEPS_PER_EPOCH: train_data.steps_per_epoch},
        shapes=setup.shapes,
        shardings=setup.shardings,
        initialize=partial(initialize, config, setup, space),
        open_inputs=open_inputs,
        report=report,
    )


def compile_step(
    config: ConfigDict, setup: Setup, mesh: Mesh, train_data: Stream | MixtureStream, state: TrainState
) -> None:
    """Compiles the step, which its first call then finds, while the data workers start; not of embeddings."""
    if not config.data.get("embeddings"):  # their batches have another dtype
        setup.step.lower(state, batch_shapes(config, mesh, train_data.frame_shape, train_data.space)).compile()


def open_data(config: ConfigDict) -> RunData:
    """Opens all data of a run.

    Raises:
        ConfigError: a list of datasets is invalid, or a dataset has frames of another size than the training data, or
            another action space and no mapping to that of the training data.
    """
    data = config.data
    mixture, valid = dataset_entries(config)
    encoder = make_encoder(config, mixture[0]) if data.get("embeddings") else None
    train = open_train_data(config, mixture, encoder)
    if config.model.get("text_features", 0) and not any(has_text(part.stream) for part in train.parts):
        raise ConfigError(
            "config.data.text_embedder is set, and no frame of the training data has text: prepare them from "
            "recordings with captions (docs/text.md), or train without text"
        )
    opened = {
        entry.name: open_stream(config, entry, "valid", data.valid_batch, encoder, train.space) for entry in valid
    }
    test = open_stream(config, DatasetEntry("", data.test), "test", data.valid_batch, encoder) if data.test else None
    for name, stream in [*opened.items(), *([("config.data.test", test)] if test else [])]:
        require_equal_data("the training data", train, name or "config.data.valid", stream)
    return RunData(train, opened, test)


def dataset_entries(config: ConfigDict) -> tuple[tuple[DatasetEntry, ...], tuple[DatasetEntry, ...]]:
    """Training and validation datasets; the only one of its kind has the name "". Raises `ConfigError`."""
    data = config.data
    mixture = read_entries(data.get("mixture", ()), "config.data.mixture", MIXTURE_OPTIONS)
    for field in ("segments", "minutes") if mixture else ():
        if data[field]:
            raise ConfigError(
                f"config.data.{field} is for the dataset of config.data.train, and config.data.mixture is set: give "
                f"`{field}` in its entries"
            )
    valid = read_entries(data.get("valid_sets", ()), "config.data.valid_sets", VALID_OPTIONS)
    only = DatasetEntry("", data.train, segments=data.segments, minutes=data.minutes)
    return mixture or (only,), valid or (DatasetEntry("", data.valid),)


def open_train_data(
    config: ConfigDict, entries: Sequence[DatasetEntry], encoder: Encoder | None
) -> Stream | MixtureStream:
    """Opens the training data: one stream, or a mixture of named ones. Raises as `open_data`."""
    batch, windows = config.data.batch, STAGES[config.stage].windows
    if not entries[0].name:
        return open_stream(config, entries[0], "train", batch, encoder)
    weights = [entry.weight for entry in entries]
    try:
        rows = split_rows(weights, batch)
    except ValueError as error:
        raise ConfigError(f"config.data.batch: {error}") from error
    shares = weights if windows else rows  # windows are drawn anew in every step, from all datasets
    parts: list[Part] = []
    for entry, own_rows, share in zip(entries, rows, shares, strict=True):
        space = parts[0].stream.space if parts else None
        stream = open_stream(config, entry, "train", batch if windows else own_rows, encoder, space)
        parts.append(Part(entry.name, stream, share / sum(shares)))
    return (WindowMixture if windows else MixtureStream)(parts, batch)


def describe_mixture(train_data: Stream | MixtureStream, steps: int) -> dict[str, str]:
    """Size of each dataset of a mixture, its share of the batch, and how often the run reads it, by name."""
    if not isinstance(train_data, MixtureStream):
        return {}
    return {
        part.name: f"{_size(part.stream)}, {part.share:.1%} of the batch, read {steps / length:.2f} times"
        for part, length in zip(train_data.parts, train_data.pass_lengths, strict=True)
    }


def make_work(config: ConfigDict, data: Stream | MixtureStream) -> Work:
    """Work of a step, for speeds and MFU."""
    chip = CHIPS.get(jax.devices()[0].device_kind)
    return Work(
        frames=config.data.batch * config.data.length,
        flops_per_frame=training_flops(config, data.frame_shape, data.space),
        devices=jax.device_count(),
        # No MFU with frozen parameters: the formula counts all as trained.
        peak_flops=chip.flops if chip and not frozen_pattern(config) else 0.0,
    )


def check_run(config: ConfigDict) -> None:
    """Checks the fields that `setup.check` does not: data and intervals; raises `ConfigError`."""
    check_text(config)
    if (rule := config.data.null_actions) not in NULL_RULES:
        raise ConfigError(f"config.data.null_actions is {rule!r}; choose one of {', '.join(NULL_RULES)}")
    for field in ("log_every", "evaluate_every", "save_every"):
        if config[field] < 1:
            raise ConfigError(f"config.{field} must be 1 or more")
    for field in ("workers", "valid_workers", "minutes"):
        if config.data[field] < 0:
            raise ConfigError(f"config.data.{field} must not be negative")


def check_text(config: ConfigDict) -> None:
    """Raises `ConfigError` unless the text embedder and the model's input for its vectors are both given, or none."""
    name, features = config.data.get("text_embedder", ""), config.model.get("text_features", 0)
    try:
        found = load_text_embedder(name).identity.features if name else 0
    except TextEmbedderError as error:
        raise ConfigError(f"config.data.text_embedder: {error}") from error
    if found != features:
        raise ConfigError(
            f"config.model.text_features is {features}, and config.data.text_embedder={name!r} gives vectors of {found}"
            f": set --config.model.text_features={found}"
        )


def has_text(stream: Stream) -> bool:
    """Returns whether any frame of a stream's split has a caption."""
    return stream.settings.text is not None and stream.settings.text.texts > 1


def open_stream(
    config: ConfigDict,
    entry: DatasetEntry,
    split: str,
    rows: int,
    encoder: Encoder | None,
    space: ActionSpace | None = None,
) -> Stream:
    """Opens a split of a dataset.

    Args:
        config: of the run.
        entry: folder, action mapping, and part of the split to use.
        split: name of the split.
        rows: of a batch.
        encoder: the stream is of its embeddings of the frames; None: of frames.
        space: to which the actions are mapped, if the entry has a mapping.

    Raises:
        ConfigError: the settings are invalid, or do not fit the dataset.
    """
    windows, training = STAGES[config.stage].windows, split == "train"
    fields = dict(length=config.data.length, nulls=config.data.null_actions, seed=config.seed, shuffle=training)
    fields |= dict(segments=entry.segments, minutes=float(entry.minutes))
    if entry.mapping:
        if space is None:
            raise ConfigError(
                f"config.data.mixture: {entry.name} is the first entry, which has the run's action space, and has a "
                "`mapping`: put the dataset to whose space the others are mapped first"
            )
        fields |= dict(space=space)
    if training:
        require_trainable(Path(entry.dataset))
        fields |= dict(min_confidence=config.data.get("min_confidence", 0.0))  # of runs that clone from labels
    try:
        fields |= dict(mapping=load_mapping(entry.mapping)) if entry.mapping else {}
        if name := config.data.get("text_embedder", ""):
            folder = Path(config.workdir, "text")
            fields |= dict(text=write_text_table(Path(entry.dataset), split, load_text_embedder(name), folder))
        settings = StreamSettings(entry.dataset, split, rows, **fields)
        if encoder is None:
            return (WindowStream if windows else Stream)(settings)
        folder = Path(config.data.embeddings, entry.name)
        write_embeddings(settings, encoder, folder)
        return EmbeddedStream(settings, folder, encoder.digest)
    except ValueError as error:
        field = f"config.data, {entry.name}" if entry.name else "config.data"
        raise ConfigError(f"{field}: {error}") from error


def make_encoder(config: ConfigDict, entry: DatasetEntry) -> Encoder:
    """Frozen image encoder of `config.init_from`, for embeddings of the dataset's frames; raises `ConfigError`."""
    if jax.process_count() > 1:
        raise ConfigError("config.data.embeddings is for jobs of one process")
    stream = Stream(StreamSettings(entry.dataset, "train", 1, 1))
    policy = make_policy(config.model, stream.space)
    shapes = jax.eval_shape(partial(init_params, policy, stream.frame_shape), jax.random.key(0))
    params = {"encoder": initial_params(config, shapes, stream.space)["encoder"]}
    digest = params_digest(params, config.model.dtype)
    run = partial(jax.jit(partial(embed, policy)), jax.device_put(params))
    return Encoder(run, digest, policy.features)


def with_frames(stream: Stream) -> Stream:
    """Stream of frames: the stream itself, or the frames of a stream of embeddings."""
    return Stream(stream.settings) if isinstance(stream, EmbeddedStream) else stream


def count_steps(config: ConfigDict, train_data: Stream | MixtureStream) -> int:
    """Number of steps to train; raises `ConfigError` if the schedule or the batch does not fit."""
    steps = config.steps or round(config.epochs * train_data.steps_per_epoch)
    if config.optimizer.warmup_steps >= steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps is {config.optimizer.warmup_steps}, and the run has {steps} steps: the "
            "learning rate would never reach its peak. Set fewer, or train longer by config.steps or config.epochs"
        )
    for part in train_data.parts:
        if not isinstance(part.stream, WindowStream):  # windows may overlap
            require_frames(config, part)
    return steps


def require_frames(config: ConfigDict, part: Part) -> None:
    """Raises `ConfigError` if the rows of a dataset have room for more frames than it has."""
    rows, available = part.stream.batch_size, part.stream.num_frames
    room, name = rows * config.data.length, f" of {part.name}" if part.name else ""
    if room > available:
        raise ConfigError(
            f"a step has room for batch x length = {room:,} frames{name}, and the training data have {available:,}: "
            "lower config.data.batch or config.data.length"
        )


def placed_batches(stream: Stream | MixtureStream, mesh: Mesh, start: int, stop: int, workers: int) -> Generator[Batch]:
    """Global batches of steps `start` to `stop` on the mesh; each host reads its rows."""
    rows = parallel.local_rows(mesh, stream.batch_size)
    with closing(batches(stream, rows, start, stop, workers)) as local_batches:
        for batch in local_batches:
            yield parallel.global_batch(batch, mesh, stream.batch_size)


def initialize(config: ConfigDict, setup: Setup, space: ActionSpace) -> TrainState:
    """State before the first step, with random parameters or those of `config.init_from`."""
    return setup.init(initial_params(config, setup.shapes.params, space)) if config.init_from else setup.init()


def make_evaluator(
    config: ConfigDict, objective: Objective, data: RunData, mesh: Mesh, baselines: Baselines
) -> Callable[[Any], dict[str, float]]:
    """Makes the function that evaluates parameters on the validation data, and on the test data if given."""

    def batches(stream: Stream) -> Callable[[], Generator[Batch]]:
        return partial(placed_batches, stream, mesh, 0, stream.steps_per_epoch, config.data.valid_workers)

    return evaluator(
        objective.measures,
        objective.predict,
        partial(objective.initial_memory, config.data.valid_batch),
        {name: batches(stream) for name, stream in data.valid.items()},
        parallel.batch_sharding(mesh),
        {
            group_name(baseline, name): figures
            for name, by_baseline in baselines.items()
            for baseline, figures in by_baseline.items()
        },
        batches(data.test) if data.test else None,
    )


def count_parameters(tree: Any) -> int:
    """Number of values in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def check_copycat(
    config: ConfigDict, objective: Objective, params: Any, data: RunData, mesh: Mesh
) -> Mapping[str, Figure] | None:
    """Losses of a policy on the first validation set, as recorded and with blanked inputs; None: it is no policy."""
    if MODEL_OF_STAGE[config.stage] is not POLICY:
        return None
    valid = next(iter(data.valid.values()))
    return copycat_losses(
        data.train.space,
        objective.predict,
        partial(objective.initial_memory, config.data.valid_batch),
        partial(placed_batches, valid, mesh, 0, valid.steps_per_epoch, config.data.valid_workers),
        params,
        INPUTS_WITH_TEXT if has_text(valid) else INPUTS,
    )


def write_page(
    config: ConfigDict,
    objective: Objective,
    state: TrainState,
    data: RunData,
    baselines: Baselines,
    test_baselines: Mapping[str, Mapping[str, float]],
    mesh: Mesh,
) -> None:
    """Writes the report page and the film, and logs their paths."""
    workdir, steps = Path(config.workdir), int(state.step)
    facts = {
        "Parameters": f"{count_parameters(state.params):,}",
        "Steps": f"{steps:,}, {steps / data.train.steps_per_epoch:.1f} epochs",
        "Training data": _size(data.train),
        **{f"Training data, {name}": text for name, text in describe_mixture(data.train, steps).items()},
        **{f"Held-out data{f', {name}' if name else ''}": _size(stream) for name, stream in data.valid.items()},
        **({"Test data": _size(data.test)} if data.test else {}),
        "Device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    held_out = [HeldOut(name, stream, baselines[name]) for name, stream in data.valid.items()]
    test = HeldOut("", data.test, test_baselines, "test") if data.test else None
    page, film = write_report(
        workdir,
        stage=config.stage,
        facts=facts,
        objective=objective,
        params=state.params,
        train=data.train,
        held_out=held_out,
        test=test,
        copycat=check_copycat(config, objective, state.params, data, mesh),
    )
    for each in [*held_out, *([test] if test else [])]:
        metric = f"{each.group}/nll"
        nll = next(line[metric] for line in reversed(read_metrics(workdir)) if metric in line)
        trivial_name, trivial = next((baseline, figures["nll"]) for baseline, figures in each.baselines.items())
        gain = f"{abs(1 - nll / trivial):.1%} {'below' if nll < trivial else 'above'}"
        kind = "test" if each.split == "test" else "validation"
        log(
            f"{kind} NLL{f' of {each.name}' if each.name else ''} {nll:.3f} nats/frame: {gain} the {trivial_name} "
            f"baseline's {trivial:.3f}"
        )
    log(f"film of held-out play, predicted against recorded: {film}")
    log(f"figures: {page}")


def _size(data: Stream | MixtureStream) -> str:
    return f"{data.num_episodes} episodes, {data.num_frames:,} frames"
