"""Fine-tune a policy by reinforcement learning in games: what a config of stage "ppg" describes, and its run."""

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.checkpoints import Checkpoints, load_policy
from vpt_jax.envs.games import GAMES, make_game
from vpt_jax.envs.pool import Episode, Pool
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.models.heads import ValueNormalizer
from vpt_jax.models.policy import Policy
from vpt_jax.models.presets import DTYPES, POLICIES, make_policy
from vpt_jax.training import loop
from vpt_jax.training.goodput import Goodput
from vpt_jax.training.metrics_log import MetricsLog, Progress, Work
from vpt_jax.training.optimizers import OPTIMIZERS
from vpt_jax.training.ppg.learner import Learner, LearnerState, Recipe
from vpt_jax.training.ppg.losses import Coefficients
from vpt_jax.training.ppg.rollout import Player, Rollout
from vpt_jax.training.setup import ConfigError, check_choices, make_mesh


def train(config: ConfigDict, began: float) -> bool:
    """Returns whether it came to the end; `began`: when the process did, by `time.monotonic`."""
    # The machines, the policy, and where its tensors lie
    mesh = make_mesh(config)
    check(config, mesh)
    policy, optimizer = make_policy(config.model), make_optimizer(config)
    begin = partial(initial_state, config, policy, optimizer)
    shapes = jax.eval_shape(begin, random_params(policy, (config.height, config.width), 0))
    shardings = parallel.tree_shardings(shapes, mesh, parallel.RULES[config.sharding])
    workdir, quiet = Path(config.workdir), jax.process_index() > 0
    say(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {dict(mesh.shape)}; {config.games} x {config.game}")

    with jax.set_mesh(mesh):
        # Resume the newest checkpoint of this run, or begin
        checkpoints = Checkpoints(workdir / "checkpoints", **config.checkpoint, facts=facts_of(config))
        if checkpoints.latest is None:
            state = jax.jit(begin, out_shardings=shardings)(first_params(config, policy))
        else:
            say(f"resumed from step {checkpoints.latest}")
            state = checkpoints.restore(shapes, shardings)
        note_settings(workdir, config, parallel.sharding_table(shapes, shardings))

        # Play and learn in turns
        start, rows = int(state.step), len(parallel.local_rows(mesh, config.games))
        with make_pool(config, rows, start) as pool:
            apprentice = Apprentice(config, policy, optimizer, mesh, pool, rows, state)
            state = loop.run(
                state,
                schedule=loop.Schedule(config.steps, config.log_every, config.steps, config.save_every),
                train_step=apprentice.learn,
                batches=apprentice.rollouts(),
                evaluate=None,
                episodes=lambda step: [f"rollout {step + 1}"],
                checkpoints=checkpoints,
                log=MetricsLog(workdir, start, quiet),
                progress=Progress(start, config.steps, Work(config.games * turns(config)), quiet, headline="return"),
                goodput=Goodput(workdir, start, began, quiet),
            )
    return int(state.step) == config.steps


class Apprentice:
    """Plays with what it has learnt, and learns from what it has played."""

    def __init__(
        self, config: ConfigDict, policy: Policy, optimizer: optax.GradientTransformation, mesh: Mesh, pool: Pool,
        rows: int, state: LearnerState,
    ):  # fmt: skip
        self._pool, self._turns, self._state = pool, turns(config), state
        place = partial(parallel.global_batch, mesh=mesh, batch=config.games)
        self._learner = Learner(policy, optimizer, recipe_of(config), config.length, place)
        self._memory = place(jax.device_get(policy.initial_memory(rows)))
        self._player = Player(policy, pool, rows, jax.random.fold_in(state.rng, int(state.step)))

    def rollouts(self) -> Iterator[Rollout]:
        """One after the other, each by the newest policy."""
        while True:
            params, normalizer = parallel.gathered((self._state.params, self._state.normalizer))
            yield self._player.play(params, normalizer, self._turns)

    def learn(self, state: LearnerState, rollout: Rollout) -> tuple[LearnerState, dict[str, Any]]:
        """An iteration, and its figures: those of the losses, and of the episodes that have ended."""
        self._state, self._memory, metrics = self._learner.learn(state, rollout, self._memory)
        return self._state, metrics | figures_of(self._pool.episodes(), self._pool.lost)


def figures_of(episodes: list[Episode], lost: int) -> dict[str, float]:
    """Means over episodes that were not lost, and how many games were lost since the start."""
    whole = [episode for episode in episodes if episode.ending != "lost"]
    figures = {"episodes": float(len(whole)), "games_lost": float(lost)}
    if whole:
        figures["return"] = float(np.mean([episode.reward for episode in whole]))
        figures["episode_steps"] = float(np.mean([episode.steps for episode in whole]))
    return figures


def turns(config: ConfigDict) -> int:
    """Of a rollout."""
    return config.fragments * config.length


def check(config: ConfigDict, mesh: Mesh) -> None:
    """Find what would fail later, or be something else than was meant.

    Raises:
      ConfigError: names the field and the values that it can have.
    """
    check_choices(config, {
        "model.preset": POLICIES, "model.dtype": DTYPES, "optimizer.name": OPTIMIZERS, "sharding": parallel.RULES,
        "game.name": GAMES, "rewards": REWARDS,
    })  # fmt: skip
    for field in ("games", "fragments", "length", "steps", "log_every", "save_every"):
        if config[field] < 1:
            raise ConfigError(f"config.{field} must be 1 or more")
    if config.ppg.leash and not config.init_from:
        raise ConfigError("config.ppg.leash ties the policy to config.init_from, which is empty: set it, or leash=0")
    try:
        parallel.local_rows(mesh, config.games)
    except ValueError as error:
        raise ConfigError(f"config.games: {error}") from error


def make_pool(config: ConfigDict, rows: int, start: int) -> Pool:
    """The games of this process. A run that goes on after iteration `start` plays other episodes than it began with."""
    first = config.game.seed + jax.process_index() + start * config.games
    return Pool(
        make_game(config.game.name, config.game.arguments.to_dict(), config.game.python),
        rows,
        (config.height, config.width),
        REWARDS[config.rewards],
        itertools.count(first, jax.process_count()),
        config.game.episodes_per_process,
        GAMES[config.game.name].wait_for_resets,
    )


def recipe_of(config: ConfigDict) -> Recipe:
    """How `config.ppg` says to learn."""
    fields = config.ppg.to_dict()
    weights = Coefficients(**{name: fields.pop(name) for name in Coefficients._fields})
    return Recipe(weights=weights, **fields)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """With a learning rate that stays as it is: the paper names no schedule."""
    schedule = optax.constant_schedule(config.optimizer.learning_rate)
    return OPTIMIZERS[config.optimizer.name](schedule, config.optimizer.weight_decay, config.optimizer.clip_norm)


def random_params(policy: Policy, size: tuple[int, int], seed: int) -> Any:
    """Parameters of a policy that has learnt nothing, in host memory; `size` is that of its frames."""
    frames, first = jnp.zeros((1, 1, *size, 3), jnp.uint8), jnp.zeros((1, 1), bool)
    variables = jax.jit(policy.init)(jax.random.PRNGKey(seed), frames, first, policy.initial_memory(1))
    return jax.device_get(variables["params"])


def first_params(config: ConfigDict, policy: Policy) -> Any:
    """What to begin with: the policy of `config.init_from`, with new value heads.

    The main one starts at zero, so that its first errors do no damage to what the policy knows (paper, appendix G.1).

    Raises:
      ConfigError: the policy there is of another size, or sees frames of another size.
    """
    params = random_params(policy, (config.height, config.width), config.seed)
    if config.init_from:
        there = jax.device_get(load_policy(config.init_from).params)
        heads = {name: params[name] for name in ("value", "aux_value")}
        if jax.tree.map(jnp.shape, there | heads) != jax.tree.map(jnp.shape, params):
            raise ConfigError(
                f"the policy in {config.init_from} (config.init_from) is not of config.model, or sees other frames"
            )
        params = there | heads
    return params | {"value": jax.tree.map(np.zeros_like, params["value"])}


def initial_state(
    config: ConfigDict, policy: Policy, optimizer: optax.GradientTransformation, params: Any
) -> LearnerState:
    """The state before the first iteration."""
    copy = jax.tree.map(jnp.copy, params)  # the state is donated, and no two of its leaves may share a buffer
    rng = jax.random.PRNGKey(config.seed)
    return LearnerState(jnp.zeros((), jnp.int32), params, copy, optimizer.init(params), ValueNormalizer.create(), rng)


def facts_of(config: ConfigDict) -> dict[str, Any]:
    """What is kept in checkpoints; `stream`, `model` and `optimizer` must be the same when they are resumed."""
    whole = jsonable(config)
    model = {name: value for name, value in whole["model"].items() if name != "remat"}
    stream = {"game": whole["game"], "rewards": config.rewards, "frame_shape": [config.height, config.width, 3]}
    return {"stream": stream, "model": model, "optimizer": {"name": config.optimizer.name}, "config": whole}


def note_settings(workdir: Path, config: ConfigDict, sharding_table: str) -> None:
    """For people who look into the work directory."""
    if jax.process_index() == 0:
        (workdir / "config.json").write_text(json.dumps(jsonable(config), indent=1) + "\n")
        (workdir / "sharding.txt").write_text(sharding_table + "\n")


def jsonable(config: ConfigDict) -> dict[str, Any]:
    """The config as plain values."""
    return json.loads(config.to_json())


def say(text: str) -> None:
    """Print, once per job."""
    if jax.process_index() == 0:
        print(text, flush=True)
