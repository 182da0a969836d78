"""Supervised training runs, behavioural cloning and inverse dynamics: data, baselines, evaluation and report.

The functions are in the order of execution.
"""

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.actions.space import ActionSpace, ActionSpaceError
from vpt_jax.data.batch import Batch
from vpt_jax.data.embeddings import EmbeddedStream, Encoder, write_embeddings
from vpt_jax.data.streams import NULL_RULES, Stream, StreamSettings, WindowStream, batches
from vpt_jax.evaluation.metrics import evaluator
from vpt_jax.models.policy import embed, init_params
from vpt_jax.models.presets import make_policy
from vpt_jax.parallel import log
from vpt_jax.report.training import write_report
from vpt_jax.system.errors import ConfigError
from vpt_jax.training.checkpoints import run_metadata
from vpt_jax.training.digests import params_digest
from vpt_jax.training.loop import Schedule, StopSignal
from vpt_jax.training.metrics_log import Work, read_metrics
from vpt_jax.training.objective import Objective
from vpt_jax.training.profiling import profiled
from vpt_jax.training.roofline import CHIPS
from vpt_jax.training.run import LoopInputs, Run
from vpt_jax.training.setup import Setup, check, frozen_pattern, initial_params, make_setup, training_flops
from vpt_jax.training.stages import STAGES, head_statistics
from vpt_jax.training.state import TrainState


def make_supervised_run(config: ConfigDict, mesh: Mesh) -> Run[TrainState]:
    """Run of behavioural cloning or inverse dynamics that a config describes.

    Raises:
        ConfigError: a field is invalid, or does not fit the data.
    """
    check(config, mesh)
    check_run(config)

    # Data
    train_data, valid_data, test_data = open_data(config)
    statistics, space = head_statistics(config), train_data.space
    baselines = statistics.baselines(train_data, valid_data)
    steps = count_steps(config, train_data)
    log(
        f"{train_data.num_episodes} training episodes of {train_data.num_frames:,} frames (null actions: "
        f"{config.data.null_actions}); {steps:,} steps, {train_data.steps_per_epoch:,} per epoch"
    )

    # Model and shardings
    marginal = statistics.marginal.from_stream(train_data)
    setup = make_setup(config, mesh, train_data.frame_shape, marginal, steps, space)
    table = Path(config.workdir) / "sharding.txt"
    log(f"{count_parameters(setup.shapes.params):,} parameters; shardings: {table}; compiling ...")

    @contextmanager
    def open_inputs(state: TrainState, stop: StopSignal) -> Iterator[LoopInputs]:
        del stop  # the loop asks it after every step: batches are quick
        evaluate = make_evaluator(config, setup.objective, valid_data, test_data, mesh, baselines)
        with (
            closing(placed_batches(train_data, mesh, int(state.step), steps, config.data.workers)) as train_batches,
            profiled(setup.step, config.profile_dir) as train_step,
        ):
            yield LoopInputs(train_step, train_batches, evaluate, train_data.episodes)

    def report(state: TrainState) -> None:
        if config.report and jax.process_count() == 1:
            write_page(config, setup.objective, state, with_frames(train_data), with_frames(valid_data), baselines)

    return Run(
        schedule=Schedule(steps, config.log_every, config.evaluate_every, config.save_every),
        work=make_work(config, train_data),
        metadata=run_metadata(config, train_data.fingerprint(), frozen_pattern(config), space),
        shapes=setup.shapes,
        shardings=setup.shardings,
        initialize=partial(initialize, config, setup, space),
        open_inputs=open_inputs,
        report=report,
    )


def open_data(config: ConfigDict) -> tuple[Stream, Stream, Stream | None]:
    """Streams for training, for choosing a checkpoint, and for reporting (None without `config.data.test`)."""
    data = config.data
    encoder = make_encoder(config) if data.get("embeddings") else None
    streams = (
        open_stream(config, data.train, "train", data.batch, encoder),
        open_stream(config, data.valid, "valid", data.valid_batch, encoder),
        open_stream(config, data.test, "test", data.valid_batch, encoder) if data.test else None,
    )
    for stream in streams[1:]:
        if stream is not None:
            folders = streams[0].settings.dataset, stream.settings.dataset
            try:
                streams[0].space.require_equal(stream.space, *folders)
            except ActionSpaceError as error:
                raise ConfigError(f"config.data: {error}") from error
    return streams


def make_work(config: ConfigDict, data: Stream) -> Work:
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
    if (rule := config.data.null_actions) not in NULL_RULES:
        raise ConfigError(f"config.data.null_actions is {rule!r}; choose one of {', '.join(NULL_RULES)}")
    for field in ("log_every", "evaluate_every", "save_every"):
        if config[field] < 1:
            raise ConfigError(f"config.{field} must be 1 or more")
    for field in ("workers", "valid_workers", "minutes"):
        if config.data[field] < 0:
            raise ConfigError(f"config.data.{field} must not be negative")


def open_stream(config: ConfigDict, dataset: str, split: str, rows: int, encoder: Encoder | None) -> Stream:
    """Opens a split of a dataset; with an `encoder`, as precomputed embeddings. Raises `ConfigError`."""
    training = split == "train"
    fields = dict(length=config.data.length, nulls=config.data.null_actions, seed=config.seed, shuffle=training)
    if training:
        fields |= dict(segments=config.data.segments, minutes=config.data.minutes)
        fields |= dict(min_confidence=config.data.get("min_confidence", 0.0))  # of runs that clone from labels
    try:
        settings = StreamSettings(dataset, split, rows, **fields)
        if encoder is None:
            return (WindowStream if STAGES[config.stage].windows else Stream)(settings)
        write_embeddings(settings, encoder, Path(config.data.embeddings))
        return EmbeddedStream(settings, Path(config.data.embeddings), encoder.digest)
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error


def make_encoder(config: ConfigDict) -> Encoder:
    """Frozen image encoder of `config.init_from`, for precomputed embeddings; raises `ConfigError`."""
    if jax.process_count() > 1:
        raise ConfigError("config.data.embeddings is for jobs of one process")
    stream = Stream(StreamSettings(config.data.train, "train", 1, 1))
    policy = make_policy(config.model, stream.space)
    shapes = jax.eval_shape(partial(init_params, policy, stream.frame_shape), jax.random.key(0))
    params = {"encoder": initial_params(config, shapes, stream.space)["encoder"]}
    digest = params_digest(params, config.model.dtype)
    run = partial(jax.jit(partial(embed, policy)), jax.device_put(params))
    return Encoder(run, digest, policy.features)


def with_frames(stream: Stream) -> Stream:
    """Stream of frames: the stream itself, or the frames of a stream of embeddings."""
    return Stream(stream.settings) if isinstance(stream, EmbeddedStream) else stream


def count_steps(config: ConfigDict, train_data: Stream) -> int:
    """Number of steps to train; raises `ConfigError` if the schedule or the batch does not fit."""
    steps = config.steps or round(config.epochs * train_data.steps_per_epoch)
    if config.optimizer.warmup_steps >= steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps is {config.optimizer.warmup_steps}, and the run has {steps} steps: the "
            "learning rate would never reach its peak. Set fewer, or train longer by config.steps or config.epochs"
        )
    room = config.data.batch * config.data.length
    if room > train_data.num_frames and not isinstance(train_data, WindowStream):  # windows may overlap
        raise ConfigError(
            f"a step has room for batch x length = {room:,} frames, and the training data have "
            f"{train_data.num_frames:,}: lower config.data.batch or config.data.length"
        )
    return steps


def placed_batches(stream: Stream, mesh: Mesh, start: int, stop: int, workers: int) -> Generator[Batch]:
    """Global batches of steps `start` to `stop` on the mesh; each host reads its rows."""
    rows = parallel.local_rows(mesh, stream.settings.batch)
    with closing(batches(stream, rows, start, stop, workers)) as local_batches:
        for batch in local_batches:
            yield parallel.global_batch(batch, mesh, stream.settings.batch)


def initialize(config: ConfigDict, setup: Setup, space: ActionSpace) -> TrainState:
    """State before the first step, with random parameters or those of `config.init_from`."""
    return setup.init(initial_params(config, setup.shapes.params, space)) if config.init_from else setup.init()


def make_evaluator(
    config: ConfigDict,
    objective: Objective,
    valid_data: Stream,
    test_data: Stream | None,
    mesh: Mesh,
    baselines: dict[str, dict[str, float]],
) -> Callable[[Any], dict[str, float]]:
    """Makes the function that evaluates parameters on the validation data, and on the test data if given."""

    def batches(data: Stream) -> Callable[[], Generator[Batch]]:
        return partial(placed_batches, data, mesh, 0, data.steps_per_epoch, config.data.valid_workers)

    return evaluator(
        valid_data.space,
        objective.predict,
        partial(objective.initial_memory, config.data.valid_batch),
        batches(valid_data),
        parallel.batch_sharding(mesh),
        baselines,
        STAGES[config.stage].views,
        batches(test_data) if test_data else None,
    )


def count_parameters(tree: Any) -> int:
    """Number of values in a tree of arrays."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def write_page(
    config: ConfigDict,
    objective: Objective,
    state: TrainState,
    train_data: Stream,
    valid_data: Stream,
    baselines: Mapping[str, Mapping[str, float]],
) -> None:
    """Writes the report page and the film, and logs their paths."""
    workdir = Path(config.workdir)
    facts = {
        "Parameters": f"{count_parameters(state.params):,}",
        "Steps": f"{int(state.step):,}, {int(state.step) / train_data.steps_per_epoch:.1f} epochs",
        "Training data": f"{train_data.num_episodes} episodes, {train_data.num_frames:,} frames",
        "Held-out data": f"{valid_data.num_episodes} episodes, {valid_data.num_frames:,} frames",
        "Device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    page, film = write_report(
        workdir,
        stage=config.stage,
        facts=facts,
        baselines=baselines,
        objective=objective,
        params=state.params,
        train=train_data,
        valid=valid_data,
    )
    nll = next(line["valid/nll"] for line in reversed(read_metrics(workdir)) if "valid/nll" in line)
    name, trivial = next((name, figures["nll"]) for name, figures in baselines.items())
    gain = f"{abs(1 - nll / trivial):.1%} {'below' if nll < trivial else 'above'}"
    log(f"validation NLL {nll:.3f} nats/frame: {gain} the {name} baseline's {trivial:.3f}")
    log(f"film of held-out play, predicted against recorded: {film}")
    log(f"figures: {page}")
