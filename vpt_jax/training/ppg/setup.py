"""Setup of stage "ppg" from its config: initial state, compiled steps and shardings; the games are in `train.py`."""

import shutil
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.actions.spaces import load_space
from vpt_jax.envs.games import GAMES
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.keys import seed_key
from vpt_jax.models.heads import HEADS, logit_shapes
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import DTYPES, POLICIES, make_policy
from vpt_jax.models.remat import AUTO
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.training.checkpoints import TrainedPolicy, stored_space
from vpt_jax.training.optimizers import OPTIMIZERS
from vpt_jax.training.ppg.learner import Learner, LearnerState, OptStates, PPGConfig
from vpt_jax.training.ppg.losses import Logits, LossWeights, Segment
from vpt_jax.training.remat_choice import StepToFit, check_remat, first_that_fits, memory_limit, with_remat
from vpt_jax.training.setup import check_choices, check_hang_minutes, pretrained_model

VALUE_HEADS = "value", "aux_value"


class PPGSetup(NamedTuple):
    """Training setup of stage "ppg", without the games."""

    policy: Policy
    init_state: Any  # maps parameters and a normalizer on the host to the initial state, on the mesh
    shapes: LearnerState  # leaves are `jax.ShapeDtypeStruct` with shardings
    shardings: LearnerState
    learner: Learner


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Validate the config before anything is started.

    Raises:
      ConfigError: names the field and its valid values.
      RemotePathError: a field has a URL where it needs a path.
    """
    refuse_remote_paths(config)
    check_choices(config, {
        "model.preset": POLICIES, "model.dtype": DTYPES, "optimizer.name": OPTIMIZERS,
        "sharding": parallel.RULES, "game.name": GAMES, "rewards": REWARDS,
    })  # fmt: skip
    check_remat(config)
    if "head" in config.model:  # configs of earlier versions do not name it
        check_choices(config, {"model.head": HEADS})
    if not config.model.aux_value:
        raise ConfigError("config.model.aux_value must be True: the sleep phase trains an auxiliary value head")
    if config.game.python and not shutil.which(config.game.python):
        raise ConfigError(f"config.game.python is {config.game.python!r}, which is not a program")
    check_hang_minutes(config)
    for field in ("num_envs", "updates_per_rollout", "unroll_length", "steps", "log_every", "save_every"):
        if config[field] < 1:
            raise ConfigError(f"config.{field} must be 1 or more")
    if config.ppg.wake_cycles < 1 or config.ppg.sleep_cycles < 0:
        raise ConfigError("config.ppg.wake_cycles must be 1 or more, and config.ppg.sleep_cycles 0 or more")
    if config.game.stagger and not config.game.arguments.get("seconds"):
        raise ConfigError(
            "config.game.stagger spreads the ends of the first episodes over config.game.arguments.seconds, which is "
            "not set: set it, or config.game.stagger=False"
        )
    if config.game.games_per_process < 0 or config.game.parts not in (0, 1, 2):
        raise ConfigError(
            f"config.game.games_per_process must be 0 or more, and config.game.parts 0, 1 or 2; they are "
            f"{config.game.games_per_process} and {config.game.parts}"
        )
    if (machines := config.game.num_machines) and (config.num_envs % machines or machines % jax.process_count()):
        raise ConfigError(
            f"config.game.num_machines is {machines}, and must be a multiple of the {jax.process_count()} training "
            f"process(es), and a divisor of config.num_envs, which is {config.num_envs}"
        )
    try:
        rows = parallel.local_rows(mesh, config.num_envs)
    except ValueError as error:
        raise ConfigError(f"config.num_envs: {error}") from error
    if len(rows) * jax.process_count() > config.num_envs:
        raise ConfigError("config.mesh.tensor splits a game between hosts: let it divide the devices of a host")


def make_setup(config: ConfigDict, mesh: Mesh) -> PPGSetup:
    """Returns the setup that a config describes, on a mesh; `config.model.remat=auto` is decided by the wake step."""

    def build(remat: str) -> PPGSetup:
        return _make_setup(with_remat(config, remat), mesh)

    def wake(setup: PPGSetup) -> StepToFit:
        arguments = wake_arguments(config, mesh, setup)
        with jax.set_mesh(mesh):
            return StepToFit(setup.learner.wake.lower(*arguments), resident_buffers(config, *arguments))

    if config.model.remat != AUTO:
        return build(config.model.remat)
    return first_that_fits(build, wake, mesh, memory_limit(mesh))


def _make_setup(config: ConfigDict, mesh: Mesh) -> PPGSetup:
    policy = make_policy(config.model, run_space(config))
    optimizer, ppg_config = make_optimizer(config), make_ppg_config(config)
    init_state = partial(initial_state, optimizer, has_sleep_optimizer(ppg_config), config.seed)
    params = jax.eval_shape(partial(init_params, policy, (*frame_size(config), 3)), jax.random.key(0))
    shapes = jax.eval_shape(init_state, params, jax.eval_shape(ValueNormalizer.create))
    shardings = parallel.tree_shardings(shapes, mesh, parallel.RULES[config.sharding])
    shapes = jax.tree.map(_with_sharding, shapes, shardings)
    row_sharding, has_pretrained = parallel.batch_sharding(mesh), bool(config.init_from)
    learner = Learner(policy, optimizer, ppg_config, config.unroll_length, shardings, row_sharding, has_pretrained)
    return PPGSetup(policy, jax.jit(init_state, out_shardings=shardings), shapes, shardings, learner)


def wake_arguments(config: ConfigDict, mesh: Mesh, setup: PPGSetup) -> tuple[Any, ...]:
    """Returns the arguments of the wake step, as shapes with shardings."""
    row_sharding, rows, steps = parallel.batch_sharding(mesh), config.num_envs, config.unroll_length

    def shape(dtype: Any, *dimensions: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, steps, *dimensions), dtype, sharding=row_sharding)

    floats, flags = shape(jnp.float32), shape(jnp.bool_)
    frames = shape(jnp.uint8, *frame_size(config), 3)
    action = _action_shapes(setup.policy, rows, steps, row_sharding)
    segment = Segment(frames, flags, flags, action, floats, floats, floats)
    memory = jax.eval_shape(partial(setup.policy.initial_memory, rows))
    memory = jax.tree.map(lambda leaf: _with_sharding(leaf, row_sharding), memory)
    shapes = logit_shapes(setup.policy.head, setup.policy.space)
    logits = {name: shape(jnp.float32, *of_frame) for name, of_frame in shapes.items()}
    return setup.shapes, memory, segment, logits if config.init_from else None


def _action_shapes(policy: Policy, rows: int, steps: int, sharding: Any) -> Any:
    """Shapes of a rollout's actions, in the form of the policy's head."""
    space = policy.space
    buttons = jax.ShapeDtypeStruct((rows, steps, len(space.keys)), jnp.uint8)
    camera = jax.ShapeDtypeStruct((rows, steps, len(space.axes)), jnp.float32)
    action = jax.eval_shape(policy.distribution.encode, buttons, camera)
    return jax.tree.map(lambda leaf: _with_sharding(leaf, sharding), action)


def step_buffers(state: LearnerState, memory: Any, segment: Segment, logits: Logits | None) -> dict[str, Any]:
    """Inputs of the wake step by kind, as `roofline.cost_of` takes them."""
    return {
        "parameters": state.params,
        "pretrained": state.pretrained,
        "optimizer": state.opt_state,
        "memory carry": memory,
        "batch": (segment, logits),
    }


def resident_buffers(
    config: ConfigDict, state: LearnerState, memory: Any, segment: Segment, logits: Logits | None
) -> dict[str, Any]:
    """Buffers that stay on the devices during a step: the segments of a rollout, their KV caches, reference logits."""
    return {
        "rollout": [segment] * config.updates_per_rollout,
        "memories": [memory] * config.updates_per_rollout,
        "logits": [logits] * config.updates_per_rollout,
    }


def _with_sharding(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def run_space(config: ConfigDict) -> ActionSpace:
    """Action space of the run: that of its checkpoint, of `config.init_from`, or for new parameters the game's.

    A run that resumes needs no `config.init_from`, and that a new one misses it is said when it is loaded.
    """
    for folder in (config.workdir, config.init_from):
        if folder:
            with suppress(FileNotFoundError):
                return stored_space(folder)
    return load_space(config.game.get("space", MINERL.name))  # configs of earlier versions do not name it


def frame_size(config: ConfigDict) -> tuple[int, int]:
    """Height and width of the policy's frames, in pixels."""
    return config.height, config.width


def make_ppg_config(config: ConfigDict) -> PPGConfig:
    """Returns the hyperparameters in `config.ppg`."""
    fields = config.ppg.to_dict()
    weights = LossWeights(**{name: fields.pop(name) for name in LossWeights._fields})
    return PPGConfig(weights=weights, **fields)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer, with a constant learning rate: the paper names no schedule."""
    schedule = optax.constant_schedule(config.optimizer.learning_rate)
    return OPTIMIZERS[config.optimizer.name](schedule, config.optimizer.weight_decay, config.optimizer.clip_norm)


def has_sleep_optimizer(ppg_config: PPGConfig) -> bool:
    """True if there is a sleep phase with a separate optimizer state."""
    return ppg_config.sleep_optimizer and ppg_config.sleep_cycles > 0


class InitialModel(NamedTuple):
    """The initial parameters and normalizer of a run, on the host."""

    params: Any
    normalizer: ValueNormalizer  # of both value heads
    trained_heads: tuple[str, ...]  # names of the value heads that are kept from the pretrained model


def initial_model(config: ConfigDict, policy: Policy) -> InitialModel:
    """Returns the policy of `config.init_from`, with its value heads if they were trained, and new ones otherwise.

    A new main head starts at zero, so that its initial errors do not damage the policy (paper, appendix G.1); a new
    auxiliary head is random.

    Raises:
      ConfigError: `config.ppg.kl_pretrained_coef` without `config.init_from`, or a policy with another size or frame
        size.
    """
    if config.ppg.kl_pretrained_coef and not config.init_from:
        raise ConfigError(
            "config.ppg.kl_pretrained_coef penalizes the KL to the policy in config.init_from, which is empty: set it, "
            "or --config.ppg.kl_pretrained_coef=0"
        )
    init, rng = partial(init_params, policy, (*frame_size(config), 3)), seed_key(config.seed)
    shapes = jax.eval_shape(init, rng)
    trained: dict[str, Any] = {}
    normalizer = ValueNormalizer.create()
    if config.init_from:
        trained, normalizer = trained_params(pretrained_model(config))
    new = shapes.keys() - trained.keys()
    params = trained | jax.device_get(jax.jit(lambda rng: {name: init(rng)[name] for name in new})(rng))
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, shapes):
        raise ConfigError(
            f"the policy in {config.init_from} (config.init_from) does not match config.model or the frame size"
        )
    if "value" in new:
        params |= {"value": jax.tree.map(np.zeros_like, params["value"])}
    return InitialModel(params, normalizer, tuple(name for name in VALUE_HEADS if name not in new))


def trained_params(model: TrainedPolicy) -> tuple[dict[str, Any], ValueNormalizer]:
    """Returns the parameters of a policy without untrained value heads, and the normalizer of the trained ones.

    A head was trained if its normalizer has been updated: in released models from reinforcement learning, and in runs
    of this stage. These runs have one normalizer for both heads: the auxiliary head is rescaled to the main one's.
    """
    params = {name: part for name, part in model.params.items() if name not in (*VALUE_HEADS, "text")}  # no text here
    if not is_trained(model.normalizer):
        return params, ValueNormalizer.create()
    params["value"] = model.params["value"]
    if "aux_value" in model.params and is_trained(model.aux_normalizer):
        params["aux_value"] = rescale_value_head(model.params["aux_value"], model.aux_normalizer, model.normalizer)
    return params, model.normalizer


def is_trained(normalizer: ValueNormalizer) -> bool:
    """True if a value head has been trained, that is, its normalizer has been updated."""
    return float(normalizer.debias) > 0


def rescale_value_head(head: Any, old: ValueNormalizer, new: ValueNormalizer) -> Any:
    """Rescales a value head to another normalizer; its denormalized output is unchanged (as in PopArt)."""
    (old_mean, old_variance), (new_mean, new_variance) = old.moments(), new.moments()
    scale = np.sqrt(old_variance / new_variance)
    shift = (old_mean - new_mean) / np.sqrt(new_variance)
    return {"kernel": np.asarray(head["kernel"] * scale), "bias": np.asarray(head["bias"] * scale + shift)}


def initial_state(
    optimizer: optax.GradientTransformation, sleep_optimizer: bool, seed: int, params: Any, normalizer: ValueNormalizer
) -> LearnerState:
    """Returns the state before the first iteration."""
    pretrained = jax.tree.map(jnp.copy, params)  # the state is donated: no two leaves may share a buffer
    opt_state = optimizer.init(params)
    if sleep_optimizer:
        opt_state = OptStates(wake=opt_state, sleep=optimizer.init(params))
    step = jnp.zeros((), jnp.int32)
    return LearnerState(step, params, pretrained, opt_state, normalizer, seed_key(seed))
