"""Builds a training run from its config: objective, optimizer, train state and jitted step.

`programs/supervised.py` runs the step, and `launch/compile.py` compiles the same step ahead of time, for devices that
are not attached. Needs no dataset: a step depends only on the shape of its frames and the actions' frequencies.
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
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace, ActionSpaceError
from vpt_jax.data.batch import Batch
from vpt_jax.data.text_embedders import TextEmbedderError, load_text_embedder
from vpt_jax.keys import seed_key
from vpt_jax.models.flops import TRAINING_FACTOR
from vpt_jax.models.policy import init_text_params
from vpt_jax.models.presets import DTYPES, make_policy
from vpt_jax.models.remat import AUTO, NONE
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.training.checkpoints import LOADERS, CheckpointError
from vpt_jax.training.freezing import PatternError, freeze, stop_gradient_on_frozen
from vpt_jax.training.objective import Objective
from vpt_jax.training.optimizers import OPTIMIZERS, linear_schedule
from vpt_jax.training.remat_choice import StepToFit, check_remat, first_that_fits, memory_limit, with_remat
from vpt_jax.training.stages import MODEL_OF_STAGE, STAGES
from vpt_jax.training.state import Loss, Metrics, TrainState, initial_state, train_step

FrameShape = tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """Jitted train step of a run; the run's length is an argument, so that runs of all lengths share one program."""

    program: Wrapped  # (state, which is donated; batch; `total_steps`) -> next state, metrics
    total_steps: np.int32

    def __call__(self, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """Next state, and metrics."""
        return self.program(state, batch, self.total_steps)

    def lower(self, state: TrainState, batch: Batch) -> Lowered:
        """Lowers the program for these shapes, for ahead-of-time compilation."""
        return self.program.lower(state, batch, self.total_steps)


class Setup(NamedTuple):
    """A training run without its data."""

    objective: Objective
    init: Callable[..., TrainState]  # makes the sharded state; takes initial parameters, or draws random ones
    shapes: TrainState  # with their shardings
    shardings: TrainState
    step: Step


def check(config: Any, mesh: Mesh) -> None:
    """Checks the config for errors that would otherwise show later, or not at all.

    Raises:
      ConfigError: a field is invalid; the message names it and its valid values.
      RemotePathError: a field has a URL where it needs a path.
    """
    refuse_remote_paths(config)
    check_choices(config, {"stage": MODEL_OF_STAGE})
    if frozen_pattern(config) and not config.init_from:
        raise ConfigError(
            "config.frozen_pattern and config.data.embeddings keep parameters as config.init_from has them, and that is"
            " empty"
        )
    check_choices(config, {
        "model.preset": MODEL_OF_STAGE[config.stage].presets, "model.dtype": DTYPES, "optimizer.name": OPTIMIZERS,
        "sharding": parallel.RULES,
    })  # fmt: skip
    check_remat(config)
    if config.stage in STAGES and "head" in config.model:
        check_choices(config, {"model.head": STAGES[config.stage].heads})
    check_hang_minutes(config)
    if not 0 <= config.model.get("text_dropout", 0.0) <= 1:
        raise ConfigError(f"config.model.text_dropout is {config.model.text_dropout}; it is a share, from 0 to 1")
    for field in ("data.batch", "data.valid_batch", "data.length", "data.grad_accum_steps"):
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
    if rows % (steps := config.data.grad_accum_steps):
        raise ConfigError(f"config.data.grad_accum_steps is {steps}, and must divide the {rows} rows of a device")


def check_choices(config: Any, choices: Mapping[str, Iterable[str]]) -> None:
    """Raises a `ConfigError` that names the choices, unless each field has one of its choices."""
    for field, table in choices.items():
        if (name := attrgetter(field)(config)) not in table:
            raise ConfigError(f"config.{field} is {name!r}; choose one of {', '.join(table)}")


def check_hang_minutes(config: Any) -> None:
    """Raises a `ConfigError` unless `config.hang_minutes` is a finite number of minutes, or 0."""
    if not 0 <= config.hang_minutes < float("inf"):
        raise ConfigError(f"config.hang_minutes is {config.hang_minutes}: give minutes, or 0 for no limit")


def make_mesh(config: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Device mesh of `config.mesh` (default: all devices of all hosts); raises `ConfigError` if it does not fit."""
    try:
        return parallel.make_mesh(**config.mesh, devices=devices)
    except ValueError as error:
        raise ConfigError(f"config.mesh: {error}") from error


def pretrained_model(config: Any) -> Any:
    """Loads the trained model of `config.init_from`, with its arrays in host memory.

    Raises:
      ConfigError: there is none, or it is of another stage or has another temperature, or the hosts find different
        newest checkpoints.
    """
    kind = MODEL_OF_STAGE[config.stage]
    try:
        pretrained: Any = LOADERS[kind.initialized_by or kind](config.init_from)
    except (FileNotFoundError, CheckpointError) as error:
        raise ConfigError(f"config.init_from: {error}") from error
    if len(steps := sorted(set(parallel.gather_from_hosts(pretrained.step)))) > 1:
        raise ConfigError(
            f"config.init_from: the newest checkpoint in {config.init_from} is that of step "
            f"{' or '.join(map(str, steps))}, depending on the host: start once its training has ended and all hosts "
            "find its last checkpoint, or give each a copy"
        )
    for field in ("temperature", "use_last", "temporal_convolution", "head"):
        if field not in config.model or not hasattr(pretrained.module, field):  # latent actions have none of them
            continue
        if (trained := getattr(pretrained.module, field)) != config.model[field]:
            raise ConfigError(
                f"config.model.{field} is {config.model[field]}, and the model in {config.init_from} was trained with "
                f"{trained}: set the same"
            )
    arrays = {"params", "normalizer", "aux_normalizer"} & set(pretrained._fields)
    return pretrained._replace(**jax.device_get({name: getattr(pretrained, name) for name in arrays}))


def frozen_pattern(config: Any) -> str:
    """Regular expression of the parameters that are not trained; empty: all are trained."""
    patterns = (config.frozen_pattern, "^encoder/" if config.data.get("embeddings") else "")
    return "|".join(pattern for pattern in patterns if pattern)


def make_setup(
    config: Any, mesh: Mesh, frame_shape: FrameShape, marginal: Any, steps: int, space: ActionSpace = MINERL
) -> Setup:
    """Builds the run that a config describes, on a mesh; `config.model.remat=auto` is decided here (`remat_choice`).

    Args:
      config: fields as in configs/foundation.py or configs/idm.py.
      frame_shape: height, width and channels.
      marginal: frequencies of the actions, of the type in `stages.head_statistics`.
      steps: of the whole run, for the learning rate schedule.
      space: of the actions.

    Raises:
      ConfigError: `config.frozen_pattern` matches no parameters, or all.
    """

    def build(remat: str) -> Setup:
        return _make_setup(with_remat(config, remat), mesh, frame_shape, marginal, steps, space)

    def step(setup: Setup) -> StepToFit:
        batch = batch_shapes(config, mesh, frame_shape, space)
        with jax.set_mesh(mesh):
            return StepToFit(setup.step.lower(setup.shapes, batch), batch)  # the next batch waits on the device

    if config.model.remat != AUTO:
        return build(config.model.remat)
    if config.data.get("embeddings"):  # the stacks are not in the step
        return build(NONE)
    return first_that_fits(build, step, mesh, memory_limit(mesh))


def _make_setup(
    config: Any, mesh: Mesh, frame_shape: FrameShape, marginal: Any, steps: int, space: ActionSpace
) -> Setup:
    objective = make_objective(config, frame_shape, marginal, space)
    pattern = frozen_pattern(config)
    loss = _with_frozen_params(objective.loss, pattern) if pattern else objective.loss

    def masked_optimizer(steps: Any) -> optax.GradientTransformation:
        optimizer = make_optimizer(config, steps)
        return freeze(optimizer, pattern) if pattern else optimizer

    # Values that differ between the runs of an experiment are arguments of the programs, not constants: so the programs
    # are compiled once.
    def init_state(marginal: Any, params: Any = None) -> TrainState:
        objective = make_objective(config, frame_shape, marginal, space)
        return _make_state(objective, masked_optimizer(steps), config.data.batch, config.seed, params)

    def update(state: TrainState, batch: Batch, steps: Any) -> tuple[TrainState, Metrics]:
        return train_step(loss, masked_optimizer(steps), state, batch, grad_accum_steps=config.data.grad_accum_steps)

    init = partial(init_state, marginal)
    try:
        shapes = jax.eval_shape(init)
    except PatternError as error:
        raise ConfigError(f"config.frozen_pattern: {error}") from error
    shardings = parallel.tree_shardings(shapes, mesh, parallel.RULES[config.sharding])
    shapes = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )
    step = Step(jax.jit(update, out_shardings=(shardings, None), donate_argnums=0), np.int32(steps))
    init = partial(jax.jit(init_state, out_shardings=shardings), marginal)
    return Setup(objective, init, shapes, shardings, step)


def make_objective(config: Any, frame_shape: FrameShape, marginal: Any, space: ActionSpace) -> Objective:
    """Objective of `config.stage`; arguments as in `make_setup`."""
    stage = STAGES[config.stage]
    initial_marginal = marginal if "initial" in config and config.initial.start_at_marginal else None
    options = {name: attrgetter(config_field)(config) for name, config_field in stage.options.items()}
    return stage.objective(stage.model.make(config.model, space), frame_shape, initial_marginal, **options)


def _with_frozen_params(loss: Loss, pattern: str) -> Loss:
    return lambda params, *inputs: loss(stop_gradient_on_frozen(params, pattern), *inputs)


def initial_params(config: Any, shapes: Any, space: ActionSpace) -> Any:
    """Initial parameters of a run from `config.init_from`, in host memory, restricted to the modules in `shapes`.

    Only a kind of model that is initialized by another may lack some of these modules, which then start as new ones.

    Raises:
      ConfigError: as `pretrained_model`, or the parameters have other shapes, or another action space.
    """
    model, other_kind = pretrained_model(config), MODEL_OF_STAGE[config.stage].initialized_by is not None
    try:
        if hasattr(model.module, "space"):  # latent actions have none
            model.module.space.require_equal(space, f"the model in {config.init_from} (config.init_from)", "the data")
    except ActionSpaceError as error:
        raise ConfigError(str(error)) from error
    if "text" in shapes and model.embedder:
        try:
            load_text_embedder(config.data.text_embedder, model.embedder)
        except TextEmbedderError as error:
            raise ConfigError(f"config.data.text_embedder: {error}") from error
    pretrained = model.params
    params = {name: pretrained[name] for name in pretrained if name in shapes}
    if "text" in shapes and "text" not in params:  # an unconditional policy, which the zero projection does not change
        params["text"] = jax.device_get(init_text_params(make_policy(config.model, space), seed_key(config.seed)))
    wanted = {name: shapes[name] for name in params} if other_kind else shapes
    if not params or jax.tree.map(np.shape, params) != jax.tree.map(np.shape, wanted):
        raise ConfigError(
            f"the model in {config.init_from} (config.init_from) is not of config.model.preset="
            f"{config.model.preset!r}, or was trained on frames of another size than the data's: set its size, "
            "and prepare the data at its frames' size"
        )
    return params


def batch_shapes(config: Any, mesh: Mesh, frame_shape: FrameShape, space: ActionSpace = MINERL) -> Batch:
    """Shapes of a global batch, with their shardings."""

    def shape(dtype: type, *dimensions: int) -> Any:
        full_shape = config.data.batch, config.data.length, *dimensions
        return jax.ShapeDtypeStruct(full_shape, dtype, sharding=parallel.batch_sharding(mesh))

    return Batch(
        frames=shape(np.uint8, *frame_shape),
        buttons=shape(np.uint8, len(space.keys)),
        camera=shape(np.float32, len(space.axes)),
        first=shape(np.bool_),
        valid=shape(np.bool_),
        text=shape(np.float32, features) if (features := config.model.get("text_features", 0)) else None,
    )


def step_buffers(shapes: TrainState, batch: Batch) -> dict[str, Any]:
    """Input buffers of a step by kind, for `roofline.cost_of`."""
    return {
        "parameters": shapes.params,
        "optimizer": shapes.opt_state,
        "memory carry": shapes.memory,
        "batch": batch,
    }


def training_flops(config: Any, frame_shape: FrameShape, space: ActionSpace) -> float:
    """FLOPs of training on a frame, as MFU counts them: the model's, without recomputation (rematerialization)."""
    (height, width, _), kind = frame_shape, MODEL_OF_STAGE[config.stage]
    return TRAINING_FACTOR * kind.flops(kind.make(config.model, space), height, width, config.data.length)


def make_optimizer(config: Any, steps: Any) -> optax.GradientTransformation:
    """Optimizer of `config.optimizer` for a run of `steps` steps (an integer, or traced)."""
    schedule = linear_schedule(config.optimizer.learning_rate, config.optimizer.warmup_steps, steps)
    return OPTIMIZERS[config.optimizer.name](schedule, config.optimizer.weight_decay, config.optimizer.clip_norm)


def _make_state(
    objective: Objective, optimizer: optax.GradientTransformation, rows: int, seed: int, params: Any = None
) -> TrainState:
    rng, init_rng = jax.random.split(seed_key(seed))
    if params is None or params.keys() != jax.eval_shape(objective.init, init_rng).keys():
        params = objective.init(init_rng) | (params or {})  # of another kind of model, which lacks some modules
    return initial_state(params, optimizer, objective.initial_memory(rows), rng)
