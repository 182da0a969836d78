"""Train a policy by behavioural cloning. The file reads in the order things happen.

    python launch/train.py --config=configs/foundation.py:demo
    python launch/train.py --config=configs/foundation.py:500m --config.data.train=DATASET --config.workdir=FOLDER

The same command resumes from the newest checkpoint in the work directory; SIGTERM (or Ctrl-C, in a job of one process)
saves and exits with 0. On several hosts, or in several processes of one, start it in each with
--config.distributed.coordinator=HOST:PORT, .num_processes and .process_id.
"""

import json
from collections.abc import Generator, Mapping
from contextlib import closing
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpt_jax import command_line, parallel
from vpt_jax.checkpoints import Checkpoints, SettingsChangedError
from vpt_jax.data.batch import Batch
from vpt_jax.data.dataset import DatasetDamagedError, DatasetMissingError
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.data.streams import NULL_RULES, Stream, StreamSettings, batches
from vpt_jax.envs import RecordError
from vpt_jax.evaluation import Marginal, baseline_metrics, evaluator
from vpt_jax.models.policy import Policy
from vpt_jax.models.presets import DTYPES, POLICIES, make_policy
from vpt_jax.report import write_report
from vpt_jax.training import loop
from vpt_jax.training.behavioural_cloning import cloning_loss, start_at_marginal
from vpt_jax.training.metrics_log import MetricsLog, Progress, read_metrics
from vpt_jax.training.optimizers import adam, linear_schedule
from vpt_jax.training.state import TrainState, initial_state, train_step


class ConfigError(ValueError):
    """A field of the config has a value that cannot be; the message says which values can."""


def train(config: ConfigDict) -> None:
    # The machines
    parallel.start_processes(**config.distributed)
    mesh = make_mesh(config)
    check(config, mesh)
    say(f"{jax.process_count()} process(es), {jax.device_count()} x {jax.devices()[0].device_kind}, {dict(mesh.shape)}")

    # The data
    if "record" in config:
        make_data(config)
    train_data = open_stream(config, config.data.train, "train", config.data.batch)
    valid_data = open_stream(config, config.data.valid, "valid", config.data.valid_batch)
    baselines = baseline_metrics(train_data, valid_data)
    steps = count_steps(config, train_data)
    say(
        f"{len(train_data.index.names)} training episodes of {train_data.num_frames:,} frames (nulls: "
        f"{config.data.nulls}); {steps:,} steps, {train_data.steps_per_epoch:,} an epoch"
    )

    # The model, and where its tensors lie
    policy = make_policy(config.model)
    optimizer = make_optimizer(config, steps)
    init = partial(make_state, policy, optimizer, train_data, Marginal.of(train_data), config.seed)
    shapes = jax.eval_shape(init)
    shardings = parallel.tree_shardings(shapes, mesh, parallel.RULES[config.sharding])
    workdir = Path(config.workdir)
    say(f"{count(shapes.params):,} parameters; where each lies: {workdir / 'sharding.txt'}; compiling ...")

    with jax.set_mesh(mesh):
        # Resume the newest checkpoint of this run, or begin
        checkpoints = Checkpoints(workdir / "checkpoints", **config.checkpoint, facts=facts_of(config, train_data))
        if checkpoints.latest is None:
            state = jax.jit(init, out_shardings=shardings)()
        else:
            state = checkpoints.restore(shapes, shardings)
            say(f"resumed from step {checkpoints.latest}")
        note_settings(workdir, config, parallel.sharding_table(shapes, shardings))

        # Train
        start = int(state.step)
        step = partial(train_step, partial(cloning_loss, policy), optimizer)
        valid_batches = partial(placed_batches, config, valid_data, mesh, 0, valid_data.steps_per_epoch)
        with closing(placed_batches(config, train_data, mesh, start, steps)) as train_batches:
            state = loop.run(
                state,
                schedule=loop.Schedule(steps, config.log_every, config.evaluate_every, config.save_every),
                train_step=jax.jit(step, out_shardings=(shardings, None), donate_argnums=0),
                batches=train_batches,
                evaluate=evaluator(
                    policy, valid_batches, config.data.valid_batch, parallel.batch_sharding(mesh), baselines
                ),
                episodes=train_data.episodes,
                checkpoints=checkpoints,
                log=MetricsLog(workdir, start, quiet=jax.process_index() > 0),
                progress=Progress(start, steps, config.data.batch * config.data.length, quiet=jax.process_index() > 0),
            )

    # Look at it
    if config.report and int(state.step) == steps and jax.process_count() == 1:
        report(workdir, policy, state, train_data, valid_data, baselines)


def say(text: str) -> None:
    """Print, once per job."""
    if jax.process_index() == 0:
        print(text, flush=True)


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Find what would fail later, before any data are made."""
    choices = {"model.preset": POLICIES, "model.dtype": DTYPES, "data.nulls": NULL_RULES, "sharding": parallel.RULES}
    for field, table in choices.items():
        if (name := attrgetter(field)(config)) not in table:
            raise ConfigError(f"config.{field} is {name!r}; choose one of {', '.join(table)}")
    for field in ("data.batch", "data.valid_batch", "data.length", "log_every", "evaluate_every", "save_every"):
        if attrgetter(field)(config) < 1:
            raise ConfigError(f"config.{field} must be 1 or more")
    for field in ("data.workers", "steps", "epochs", "optimizer.warmup_steps"):
        if attrgetter(field)(config) < 0:
            raise ConfigError(f"config.{field} must not be negative")
    for field in ("data.batch", "data.valid_batch"):
        try:
            parallel.local_rows(mesh, attrgetter(field)(config))
        except ValueError as error:
            raise ConfigError(f"config.{field}: {error}") from error


def make_mesh(config: ConfigDict) -> Mesh:
    try:
        return parallel.make_mesh(**config.mesh)
    except ValueError as error:
        raise ConfigError(f"config.mesh: {error}") from error


def make_data(config: ConfigDict) -> None:
    """Record and prepare what is not there yet; the other processes wait for the first."""
    from vpt_jax.envs.recorder import record  # here, since only this needs the game installed

    if jax.process_index() == 0:
        record(config.record)
        prepare(config.prepare)
    parallel.wait_for_all("data")


def open_stream(config: ConfigDict, dataset: str, split: str, rows: int) -> Stream:
    length, nulls = config.data.length, config.data.nulls
    try:
        return Stream(StreamSettings(dataset, split, rows, length, nulls, config.seed, shuffle=split == "train"))
    except ValueError as error:
        raise ConfigError(f"config.data: {error}") from error


def count_steps(config: ConfigDict, train_data: Stream) -> int:
    """How many steps to train; what cannot be right is refused."""
    steps = config.steps or round(config.epochs * train_data.steps_per_epoch)
    if config.optimizer.warmup_steps >= steps:
        raise ConfigError(
            f"config.optimizer.warmup_steps is {config.optimizer.warmup_steps}, and the run has {steps} steps: the "
            "learning rate would never reach its peak. Set fewer, or train longer by config.steps or config.epochs"
        )
    if (room := config.data.batch * config.data.length) > train_data.num_frames:
        raise ConfigError(
            f"a step has room for batch x length = {room:,} frames, and the training data have "
            f"{train_data.num_frames:,}: lower config.data.batch or config.data.length"
        )
    return steps


def placed_batches(config: ConfigDict, stream: Stream, mesh: Mesh, start: int, stop: int) -> Generator[Batch]:
    """The global batches of some steps, this host's rows of them read here."""
    rows = parallel.local_rows(mesh, stream.settings.batch)
    with closing(batches(stream, rows, start, stop, config.data.workers)) as here:
        for batch in here:
            yield parallel.global_batch(batch, mesh, stream.settings.batch)


def make_optimizer(config: ConfigDict, steps: int) -> optax.GradientTransformation:
    schedule = linear_schedule(config.optimizer.learning_rate, config.optimizer.warmup_steps, steps)
    return adam(schedule, config.optimizer.weight_decay, config.optimizer.clip_norm)


def make_state(
    policy: Policy, optimizer: optax.GradientTransformation, stream: Stream, marginal: Marginal, seed: int
) -> TrainState:
    """The state before the first step; compiled as a whole, so that every tensor is made where it is to lie."""
    rng, init_rng = jax.random.split(jax.random.PRNGKey(seed))
    frames, first = jnp.zeros((1, 1, *stream.frame_shape), jnp.uint8), jnp.zeros((1, 1), bool)
    params = policy.init(init_rng, frames, first, policy.initial_memory(1))["params"]
    params = start_at_marginal(params, marginal, policy.temperature)
    return initial_state(params, optimizer, policy.initial_memory(stream.settings.batch), rng)


def facts_of(config: ConfigDict, stream: Stream) -> dict[str, Any]:
    """What is kept in checkpoints; `stream` and `model` must be the same when they are resumed."""
    model = {name: value for name, value in jsonable(config.model).items() if name != "remat"}
    return {"stream": stream.fingerprint(), "model": model, "config": jsonable(config)}


def note_settings(workdir: Path, config: ConfigDict, sharding_table: str) -> None:
    if jax.process_index() == 0:
        (workdir / "config.json").write_text(json.dumps(jsonable(config), indent=1) + "\n")
        (workdir / "sharding.txt").write_text(sharding_table + "\n")


def jsonable(config: ConfigDict) -> dict[str, Any]:
    return json.loads(config.to_json())


def count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def report(
    workdir: Path,
    policy: Policy,
    state: TrainState,
    train_data: Stream,
    valid_data: Stream,
    baselines: Mapping[str, Mapping[str, float]],
) -> None:
    """The page and the film, and where they lie."""
    facts = {
        "Parameters": f"{count(state.params):,}",
        "Steps": f"{int(state.step):,}, {int(state.step) / train_data.steps_per_epoch:.1f} epochs",
        "Training data": f"{len(train_data.index.names)} episodes, {train_data.num_frames:,} frames",
        "Held-out data": f"{len(valid_data.index.names)} episodes, {valid_data.num_frames:,} frames",
        "Device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
    }
    page, film = write_report(
        workdir,
        facts=facts,
        baselines=baselines,
        policy=policy,
        params=state.params,
        train=train_data,
        valid=valid_data,
    )
    nll = next(line["valid/nll"] for line in reversed(read_metrics(workdir)) if "valid/nll" in line)
    trivial = baselines["marginal"]["nll"]
    gain = f"{abs(1 - nll / trivial):.1%} {'below' if nll < trivial else 'above'}"
    say(f"validation NLL {nll:.3f} nats/frame: {gain} the marginal baseline's {trivial:.3f}")
    say(f"film of held-out play, predicted against recorded: {film}")
    say(f"figures: {page}")


if __name__ == "__main__":
    mistakes = (
        ConfigError, DatasetMissingError, DatasetDamagedError, RecordError, PrepareError, SettingsChangedError,
        loop.NonFiniteLossError,
    )  # fmt: skip
    command_line.run(train, "configs/foundation.py", mistakes)
