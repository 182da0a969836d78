"""What the fields of a training config make: objective, optimizer, state, and the step that is compiled.

`launch/train.py` runs it and `launch/compile.py` compiles it for machines that are not there, so both are of the very
same step. Needs no data: what a step depends on of a dataset is the shape of its frames and the actions' frequencies.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from jax.stages import Lowered, Wrapped

from vpt_jax import parallel
from vpt_jax.actions import BUTTONS
from vpt_jax.data.batch import Batch
from vpt_jax.evaluation.baselines import FactoredMarginal, Marginal
from vpt_jax.keys import seed_key
from vpt_jax.models.flops import TRAINING, idm_flops, policy_flops
from vpt_jax.models.presets import DTYPES, IDMS, POLICIES, make_idm, make_policy
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.training.behavioural_cloning import cloning
from vpt_jax.training.checkpoints import IDM_STAGE, CheckpointError, load_idm, load_policy
from vpt_jax.training.freezing import PatternError, freeze, hold
from vpt_jax.training.inverse_dynamics import inverse_dynamics
from vpt_jax.training.objective import Objective
from vpt_jax.training.optimizers import OPTIMIZERS, linear_schedule
from vpt_jax.training.state import Loss, Metrics, TrainState, initial_state, train_step

FrameShape = tuple[int, ...]


class ConfigError(ValueError):
    """A field of the config has a value that cannot be; the message says which values can."""


class Kind(NamedTuple):
    """What `config.stage` chooses, as far as the step goes."""

    presets: Mapping[str, Any]  # sizes of the model
    marginal: type[Marginal] | type[FactoredMarginal]
    objective: Callable[[Any, FrameShape, Any], Objective]
    flops: Callable[[Any, FrameShape], float]  # of a forward pass, per frame


def _cloning(config: Any, frame_shape: FrameShape, marginal: Marginal) -> Objective:
    return cloning(make_policy(config.model), frame_shape, marginal if config.initial.start_at_marginal else None)


def _inverse_dynamics(config: Any, frame_shape: FrameShape, marginal: FactoredMarginal) -> Objective:
    return inverse_dynamics(
        make_idm(config.model),
        frame_shape,
        marginal if config.initial.start_at_marginal else None,
        config.data.augment,
        config.data.mirror,
        config.initial.temporal_difference,
    )


def _policy_flops(config: Any, frame_shape: FrameShape) -> float:
    height, width, _ = frame_shape
    return policy_flops(make_policy(config.model), height, width, config.data.length)


def _idm_flops(config: Any, frame_shape: FrameShape) -> float:
    height, width, _ = frame_shape
    return idm_flops(make_idm(config.model), height, width, config.data.length)


KINDS = {
    "policy": Kind(POLICIES, Marginal, _cloning, _policy_flops),
    "idm": Kind(IDMS, FactoredMarginal, _inverse_dynamics, _idm_flops),
}


@dataclass(frozen=True)
class Step:
    """The step of a run; its length is an argument of the program, so that runs of other lengths compile no other."""

    program: Wrapped  # of a state, whose memory it takes over, a batch and `total_steps`
    total_steps: np.int32

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """The next state, and metrics."""
        return self.program(state, batch, self.total_steps)

    def lower(self, state: TrainState, batch: Batch) -> Lowered:
        """The program for these shapes, to be compiled."""
        return self.program.lower(state, batch, self.total_steps)


class Setup(NamedTuple):
    """Everything about a training run but its data."""

    objective: Objective
    init: Callable[..., TrainState]  # makes every tensor where it is to lie; takes first parameters, if not random ones
    shapes: TrainState  # with their shardings
    shardings: TrainState
    step: Step


def check(config: Any, mesh: Mesh) -> None:
    """Find what would fail later, or be something else than was meant.

    Raises:
      ConfigError: names the field and the values that it can have.
      RemotePathError: a field has a URL where it needs a path.
    """
    refuse_remote_paths(config)
    if config.stage not in KINDS:
        raise ConfigError(f"config.stage is {config.stage!r}; choose one of {', '.join(KINDS)}")
    if frozen_pattern(config) and not config.init_from:
        raise ConfigError(
            "config.frozen and config.data.embeddings keep parameters as config.init_from has them, and that is empty"
        )
    check_choices(config, {
        "model.preset": KINDS[config.stage].presets, "model.dtype": DTYPES, "optimizer.name": OPTIMIZERS,
        "sharding": parallel.RULES,
    })  # fmt: skip
    check_hang_minutes(config)
    for field in ("data.batch", "data.valid_batch", "data.length", "data.parts"):
        if attrgetter(field)(config) < 1:
            raise ConfigError(f"config.{field} must be 1 or more")
    for field in ("steps", "epochs", "optimizer.warmup_steps"):
        if attrgetter(field)(config) < 0:
            raise ConfigError(f"config.{field} must not be negative")
    for field in ("data.batch", "data.valid_batch"):
        try:
            parallel.local_rows(mesh, attrgetter(field)(config))
        except ValueError as error:
            raise ConfigError(f"config.{field}: {error}") from error
    rows = config.data.batch // (mesh.shape["data"] * mesh.shape["fsdp"])
    if rows % config.data.parts:
        raise ConfigError(f"config.data.parts is {config.data.parts}, and must divide the {rows} rows of a device")


def check_choices(config: Any, choices: Mapping[str, Iterable[str]]) -> None:
    """Raises a `ConfigError` that names the choices if a field has none of them."""
    for field, table in choices.items():
        if (name := attrgetter(field)(config)) not in table:
            raise ConfigError(f"config.{field} is {name!r}; choose one of {', '.join(table)}")


def check_hang_minutes(config: Any) -> None:
    """Raise a `ConfigError` if the limit of a hanging step is none."""
    if not 0 <= config.hang_minutes < float("inf"):
        raise ConfigError(f"config.hang_minutes is {config.hang_minutes}: give minutes, or 0 for no limit")


def make_mesh(config: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of `config.mesh` over devices (default: all of all hosts); raises `ConfigError` if it does not fit."""
    try:
        return parallel.make_mesh(**config.mesh, devices=devices)
    except ValueError as error:
        raise ConfigError(f"config.mesh: {error}") from error


def pretrained_params(config: Any) -> Any:
    """The parameters of `config.init_from`, in host memory; raises as `pretrained_model`."""
    return pretrained_model(config).params


def pretrained_model(config: Any) -> Any:
    """The `TrainedPolicy` or `TrainedIDM` of `config.init_from`, its arrays in host memory.

    Raises:
      ConfigError: there are none, or they are of another kind of model, or of one with another temperature, or not
        every host sees the same newest checkpoint.
    """
    try:
        pretrained = (load_idm if config.stage == IDM_STAGE else load_policy)(config.init_from)
    except (FileNotFoundError, CheckpointError) as error:
        raise ConfigError(f"config.init_from: {error}") from error
    if len(steps := sorted(set(parallel.of_all_hosts(pretrained.step)))) > 1:
        raise ConfigError(
            f"config.init_from: the newest checkpoint in {config.init_from} is that of step "
            f"{' or '.join(map(str, steps))}, by the host that looks: begin once its training has ended and all hosts "
            "see its last, or give each a copy"
        )
    for field in ("temperature", "use_last"):
        if field in config.model and (there := getattr(pretrained.module, field)) != config.model[field]:
            raise ConfigError(
                f"config.model.{field} is {config.model[field]}, and the model in {config.init_from} was trained with "
                f"{there}: set the same"
            )
    arrays = {"params", "normalizer", "aux_normalizer"} & set(pretrained._fields)
    return pretrained._replace(**jax.device_get({name: getattr(pretrained, name) for name in arrays}))


def frozen_pattern(config: Any) -> str:
    """What names the parameters that are not trained; empty: all are."""
    patterns = (config.frozen, "^encoder/" if config.data.get("embeddings") else "")
    return "|".join(pattern for pattern in patterns if pattern)


def make_setup(config: Any, mesh: Mesh, frame_shape: FrameShape, marginal: Any, steps: int) -> Setup:
    """The run that a config describes, on a mesh.

    Args:
      config: fields as in configs/foundation.py or configs/idm.py.
      frame_shape: height, width and channels.
      marginal: how frequent the actions are, of the kind that `KINDS` names.
      steps: of the whole run, for the schedule of the learning rate.

    Raises:
      ConfigError: `config.frozen` names no parameters, or all.
    """
    objective = KINDS[config.stage].objective(config, frame_shape, marginal)
    pattern = frozen_pattern(config)
    loss = _held(objective.loss, pattern) if pattern else objective.loss

    def optimizer_of(steps: Any) -> optax.GradientTransformation:
        optimizer = make_optimizer(config, steps)
        return freeze(optimizer, pattern) if pattern else optimizer

    # What differs between the runs of an experiment is passed to the programs, not built in: so they are compiled once.
    def init_of(marginal: Any, params: Any = None) -> TrainState:
        of_marginal = KINDS[config.stage].objective(config, frame_shape, marginal)
        return _make_state(of_marginal, optimizer_of(steps), config.data.batch, config.seed, params)

    def update(state: TrainState, batch: Batch, steps: Any) -> tuple[TrainState, Metrics]:
        return train_step(loss, optimizer_of(steps), state, batch, parts=config.data.parts)

    init = partial(init_of, marginal)
    try:
        shapes = jax.eval_shape(init)
    except PatternError as error:
        raise ConfigError(f"config.frozen: {error}") from error
    shardings = parallel.tree_shardings(shapes, mesh, parallel.RULES[config.sharding])
    shapes = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )
    step = Step(jax.jit(update, out_shardings=(shardings, None), donate_argnums=0), np.int32(steps))
    init = partial(jax.jit(init_of, out_shardings=shardings), marginal)
    return Setup(objective, init, shapes, shardings, step)


def _held(loss: Loss, pattern: str) -> Loss:
    return lambda params, *others: loss(hold(params, pattern), *others)


def first_params(config: Any, shapes: Any) -> Any:
    """What a run of `config.init_from` begins with, in host memory; heads that its model has not are left out.

    Raises:
      ConfigError: as `pretrained_params`, or they are not of these shapes.
    """
    there = pretrained_params(config)
    params = {name: there[name] for name in there if name in shapes}
    if jax.tree.map(np.shape, params) != jax.tree.map(np.shape, shapes):
        raise ConfigError(
            f"the model in {config.init_from} (config.init_from) is not of config.model.preset="
            f"{config.model.preset!r}, or sees other frames than the data have: set its size, and prepare the data at "
            "its frames' size"
        )
    return params


def batch_shapes(config: Any, mesh: Mesh, frame_shape: FrameShape) -> Batch:
    """Shapes of a global batch, and how it lies."""

    def shape(dtype: type, *dimensions: int) -> Any:
        whole = config.data.batch, config.data.length, *dimensions
        return jax.ShapeDtypeStruct(whole, dtype, sharding=parallel.batch_sharding(mesh))

    return Batch(
        frames=shape(np.uint8, *frame_shape),
        buttons=shape(np.uint8, len(BUTTONS)),
        camera=shape(np.float32, 2),
        first=shape(np.bool_),
        valid=shape(np.bool_),
    )


def held_by(shapes: TrainState, batch: Batch) -> dict[str, Any]:
    """What a step takes in, by kind, as `cost.cost_of` has it."""
    return {
        "parameters": shapes.params,
        "optimizer": shapes.opt_state,
        "memory carry": shapes.memory,
        "batch": batch,
    }


def training_flops(config: Any, frame_shape: FrameShape) -> float:
    """Operations of training on a frame, as MFU counts them: the model's, whatever is computed twice to save memory."""
    return TRAINING * KINDS[config.stage].flops(config, frame_shape)


def make_optimizer(config: Any, steps: Any) -> optax.GradientTransformation:
    """The optimizer of `config.optimizer`, for a run of so many steps (an integer, or traced)."""
    schedule = linear_schedule(config.optimizer.learning_rate, config.optimizer.warmup_steps, steps)
    return OPTIMIZERS[config.optimizer.name](schedule, config.optimizer.weight_decay, config.optimizer.clip_norm)


def _make_state(
    objective: Objective, optimizer: optax.GradientTransformation, rows: int, seed: int, params: Any = None
) -> TrainState:
    rng, init_rng = jax.random.split(seed_key(seed))
    params = objective.init(init_rng) if params is None else params
    return initial_state(params, optimizer, objective.initial_memory(rows), rng)
