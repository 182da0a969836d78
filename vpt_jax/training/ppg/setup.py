"""What a config of stage "ppg" describes, but for its games: the state, the compiled steps, and where tensors lie."""

import shutil
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.actions import JointAction
from vpt_jax.envs.games import GAMES
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.keys import seed_key
from vpt_jax.models.heads import HEAD_CLASSES, ValueNormalizer
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import DTYPES, POLICIES, make_policy
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.training.checkpoints import TrainedPolicy
from vpt_jax.training.optimizers import OPTIMIZERS
from vpt_jax.training.ppg.learner import Learner, LearnerState, OptStates, Recipe
from vpt_jax.training.ppg.losses import Coefficients, Fragment, Logits
from vpt_jax.training.setup import ConfigError, check_choices, check_hang_minutes, pretrained_model

VALUE_HEADS = "value", "aux_value"


class Setup(NamedTuple):
    """Everything about a training run but its games."""

    policy: Policy
    begin: Any  # from parameters and a normaliser on the host to the first state, on the mesh
    shapes: LearnerState  # with their shardings
    shardings: LearnerState
    learner: Learner


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Find what would fail later, or be something else than was meant.

    Raises:
      ConfigError: names the field and the values that it can have.
      RemotePathError: a field has a URL where it needs a path.
    """
    refuse_remote_paths(config)
    check_choices(config, {
        "model.preset": POLICIES, "model.dtype": DTYPES, "optimizer.name": OPTIMIZERS, "sharding": parallel.RULES,
        "game.name": GAMES, "rewards": REWARDS,
    })  # fmt: skip
    if not config.model.aux_value:
        raise ConfigError("config.model.aux_value must be True: the sleep learns an auxiliary value")
    if config.game.python and not shutil.which(config.game.python):
        raise ConfigError(f"config.game.python is {config.game.python!r}, which is no program")
    check_hang_minutes(config)
    for field in ("games", "fragments", "length", "steps", "log_every", "save_every"):
        if config[field] < 1:
            raise ConfigError(f"config.{field} must be 1 or more")
    if config.ppg.wake_cycles < 1 or config.ppg.sleep_cycles < 0:
        raise ConfigError("config.ppg.wake_cycles must be 1 or more, and config.ppg.sleep_cycles 0 or more")
    if config.game.stagger and not config.game.arguments.get("seconds"):
        raise ConfigError(
            "config.game.stagger spreads the ends of the first episodes over config.game.arguments.seconds, which is "
            "not set: set it, or config.game.stagger=False"
        )
    if (machines := config.game.machines) and (config.games % machines or machines % jax.process_count()):
        raise ConfigError(
            f"config.game.machines is {machines}, and must be a multiple of the {jax.process_count()} process(es) that "
            f"learn, and a divisor of config.games, which is {config.games}"
        )
    try:
        rows = parallel.local_rows(mesh, config.games)
    except ValueError as error:
        raise ConfigError(f"config.games: {error}") from error
    if len(rows) * jax.process_count() > config.games:
        raise ConfigError("config.mesh.tensor splits a game between hosts: let it divide the devices of a host")


def make_setup(config: ConfigDict, mesh: Mesh) -> Setup:
    """The run that a config describes, on a mesh."""
    policy, optimizer, recipe = make_policy(config.model), make_optimizer(config), recipe_of(config)
    begin = partial(initial_state, optimizer, has_sleep_optimizer(recipe), config.seed)
    params = jax.eval_shape(partial(init_params, policy, (*frame_size(config), 3)), jax.random.key(0))
    shapes = jax.eval_shape(begin, params, jax.eval_shape(ValueNormalizer.create))
    shardings = parallel.tree_shardings(shapes, mesh, parallel.RULES[config.sharding])
    shapes = jax.tree.map(_with_sharding, shapes, shardings)
    by_rows, anchored = parallel.batch_sharding(mesh), bool(config.init_from)
    learner = Learner(policy, optimizer, recipe, config.length, shardings, by_rows, anchored)
    return Setup(policy, jax.jit(begin, out_shardings=shardings), shapes, shardings, learner)


def wake_arguments(config: ConfigDict, mesh: Mesh, setup: Setup) -> tuple[Any, ...]:
    """Shapes of what the wake's step takes in, and how they lie."""
    by_rows, rows, steps = parallel.batch_sharding(mesh), config.games, config.length

    def shape(dtype: Any, *dimensions: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, steps, *dimensions), dtype, sharding=by_rows)

    floats, choices, flags = shape(jnp.float32), shape(jnp.int32), shape(jnp.bool_)
    frames = shape(jnp.uint8, *frame_size(config), 3)
    fragment = Fragment(frames, flags, flags, JointAction(choices, choices), floats, floats, floats)
    memory = jax.eval_shape(partial(setup.policy.initial_memory, rows))
    memory = jax.tree.map(lambda leaf: _with_sharding(leaf, by_rows), memory)
    logits = {head: shape(jnp.float32, classes) for head, classes in HEAD_CLASSES.items()}
    return setup.shapes, memory, fragment, logits if config.init_from else None


def held_by(state: LearnerState, memory: Any, fragment: Fragment, logits: Logits | None) -> dict[str, Any]:
    """What the wake's step takes in, by kind, as `cost.cost_of` has it."""
    return {
        "parameters": state.params,
        "pretrained": state.pretrained,
        "optimizer": state.opt_state,
        "memory carry": memory,
        "batch": (fragment, logits),
    }


def held_beside(
    config: ConfigDict, state: LearnerState, memory: Any, fragment: Fragment, logits: Logits | None
) -> dict[str, Any]:
    """Buffers that stay on the devices: all segments of a rollout, their memories and the reference logits."""
    return {
        "rollout": [fragment] * config.fragments,
        "memories": [memory] * config.fragments,
        "logits": [logits] * config.fragments,
    }


def _with_sharding(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def frame_size(config: ConfigDict) -> tuple[int, int]:
    """Height and width of what the policy sees."""
    return config.height, config.width


def recipe_of(config: ConfigDict) -> Recipe:
    """How `config.ppg` says to learn."""
    fields = config.ppg.to_dict()
    weights = Coefficients(**{name: fields.pop(name) for name in Coefficients._fields})
    return Recipe(weights=weights, **fields)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """With a learning rate that stays as it is: the paper names no schedule."""
    schedule = optax.constant_schedule(config.optimizer.learning_rate)
    return OPTIMIZERS[config.optimizer.name](schedule, config.optimizer.weight_decay, config.optimizer.clip_norm)


def has_sleep_optimizer(recipe: Recipe) -> bool:
    """True if the sleep phase exists and has an optimizer state of its own."""
    return recipe.sleep_optimizer and recipe.sleep_cycles > 0


class FirstModel(NamedTuple):
    """The initial parameters and normaliser of a run, on the host."""

    params: Any
    normalizer: ValueNormalizer  # of both values
    kept: tuple[str, ...]  # value heads that were trained before


def first_model(config: ConfigDict, policy: Policy) -> FirstModel:
    """The policy of `config.init_from`, with its value heads if they were trained, and new ones otherwise.

    A new main head starts at zero, so that its first errors do no damage to the policy (paper, appendix G.1); a new
    auxiliary one is random.

    Raises:
      ConfigError: there is none and a leash to it, or it is of another size, or sees frames of another size.
    """
    if config.ppg.leash and not config.init_from:
        raise ConfigError("config.ppg.leash ties the policy to config.init_from, which is empty: set it, or leash=0")
    init, rng = partial(init_params, policy, (*frame_size(config), 3)), seed_key(config.seed)
    shapes = jax.eval_shape(init, rng)
    there, normalizer = trained_parts(pretrained_model(config)) if config.init_from else ({}, ValueNormalizer.create())
    new = shapes.keys() - there.keys()
    params = there | jax.device_get(jax.jit(lambda rng: {name: init(rng)[name] for name in new})(rng))
    if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, shapes):
        raise ConfigError(
            f"the policy in {config.init_from} (config.init_from) is not of config.model, or sees other frames"
        )
    if "value" in new:
        params |= {"value": jax.tree.map(np.zeros_like, params["value"])}
    return FirstModel(params, normalizer, tuple(name for name in VALUE_HEADS if name not in new))


def trained_parts(model: TrainedPolicy) -> tuple[dict[str, Any], ValueNormalizer]:
    """The parameters of a policy without the value heads that were never trained, and the normaliser of the others.

    A head was trained if its normaliser has seen targets: in released models from reinforcement learning, and in runs
    of this stage. Ours have one normaliser for both heads: the auxiliary head is brought to that of the main one.
    """
    params = {name: part for name, part in model.params.items() if name not in VALUE_HEADS}
    if not is_trained(model.normalizer):
        return params, ValueNormalizer.create()
    params["value"] = model.params["value"]
    if "aux_value" in model.params and is_trained(model.aux_normalizer):
        params["aux_value"] = rescaled(model.params["aux_value"], model.aux_normalizer, model.normalizer)
    return params, model.normalizer


def is_trained(normalizer: ValueNormalizer) -> bool:
    """True if a value head has been trained: its normaliser has seen targets."""
    return float(normalizer.debias) > 0


def rescaled(head: Any, old: ValueNormalizer, new: ValueNormalizer) -> Any:
    """A value head that says the same in the rewards' unit, by another normaliser than it was trained with."""
    (old_mean, old_variance), (new_mean, new_variance) = old.moments(), new.moments()
    scale = np.sqrt(old_variance / new_variance)
    shift = (old_mean - new_mean) / np.sqrt(new_variance)
    return {"kernel": np.asarray(head["kernel"] * scale), "bias": np.asarray(head["bias"] * scale + shift)}


def initial_state(
    optimizer: optax.GradientTransformation, sleep_optimizer: bool, seed: int, params: Any, normalizer: ValueNormalizer
) -> LearnerState:
    """The state before the first iteration."""
    pretrained = jax.tree.map(jnp.copy, params)  # the state is donated, and no two of its leaves may share a buffer
    opt_state = optimizer.init(params)
    if sleep_optimizer:
        opt_state = OptStates(wake=opt_state, sleep=optimizer.init(params))
    step = jnp.zeros((), jnp.int32)
    return LearnerState(step, params, pretrained, opt_state, normalizer, seed_key(seed))
