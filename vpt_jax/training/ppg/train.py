"""Training run of stage "ppg": fine-tunes a policy by reinforcement learning in games."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.envs.games import GAMES, make_env_spec
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector.episode_stream import FinishedEpisode
from vpt_jax.envs.vector.pool import Pool, VectorEnv
from vpt_jax.parallel import log
from vpt_jax.system.errors import ConfigError
from vpt_jax.system.seeds import episode_seed
from vpt_jax.training.checkpoints import jsonable, run_metadata
from vpt_jax.training.loop import Schedule, StopSignal
from vpt_jax.training.metrics_log import Work
from vpt_jax.training.ppg.acting_params import acting_params
from vpt_jax.training.ppg.learner import LearnerState, Rollout
from vpt_jax.training.ppg.rollout import RolloutCollector, count_parts
from vpt_jax.training.ppg.setup import (
    VALUE_HEADS,
    PPGSetup,
    check,
    frame_size,
    has_sleep_optimizer,
    initial_model,
    make_ppg_config,
    make_setup,
    run_space,
)
from vpt_jax.training.run import LoopInputs, Run
from vpt_jax.video import FRAME_RATE

if TYPE_CHECKING:  # it needs Ray
    from vpt_jax.envs.vector.remote import RemotePool


_SLEEP_OPTIMIZER = "sleep_optimizer"  # key in the metadata of a checkpoint that has one
SETTING_HINTS = {
    _SLEEP_OPTIMIZER: (
        "config.ppg.sleep_optimizer must be True if and only if the checkpoint has an optimizer state for the sleep "
        "phase. Earlier versions had one for both: --config.ppg.sleep_optimizer=False resumes their runs, with the "
        "current rules for rewards, minibatches and the value normalizer."
    )
}  # for `Run.setting_hints`


def make_ppg_run(config: ConfigDict, mesh: Mesh) -> Run[LearnerState]:
    """Returns the run that a config describes; it alternates between rollouts and updates.

    Raises:
        ConfigError: a field is invalid.
    """
    check(config, mesh)
    setup = make_setup(config, mesh)
    log(f"{config.num_envs} games of {config.game.name}, {dict(config.game.arguments)}")

    @contextmanager
    def open_inputs(state: LearnerState, stop: StopSignal) -> Iterator[LoopInputs]:
        with ExitStack() as stack:
            pools = make_pools(config, mesh, int(state.step), stack)
            iteration = PPGIteration(config, setup, mesh, pools, state)
            yield LoopInputs(iteration.learn, iteration.rollouts(stop), None, lambda step: [f"rollout {step + 1}"])

    return Run(
        schedule=Schedule(config.steps, config.log_every, config.steps, config.save_every),
        work=Work(config.num_envs * rollout_length(config)),
        metadata=checkpoint_metadata(config),
        shapes=setup.shapes,
        shardings=setup.shardings,
        initialize=partial(initialize, config, setup),
        open_inputs=open_inputs,
        headline="return",
        setting_hints=SETTING_HINTS,
    )


def initialize(config: ConfigDict, setup: PPGSetup) -> LearnerState:
    """Returns the initial state, and logs the origin of the value heads."""
    model = initial_model(config, setup.policy)
    heads = {name: f"kept from {config.init_from}" if name in model.trained_heads else "new" for name in VALUE_HEADS}
    log("value heads: " + ", ".join(f"{name} {source}" for name, source in heads.items()))
    return setup.init_state(model.params, model.normalizer)


class PPGIteration:
    """Iterations of PPG: each collects a rollout with the newest policy, and updates the policy with it."""

    def __init__(
        self, config: ConfigDict, setup: PPGSetup, mesh: Mesh, pools: Sequence[VectorEnv], state: LearnerState
    ):
        self._pools, self._num_steps, self._state, self._learner = pools, rollout_length(config), state, setup.learner
        memory = partial(setup.policy.initial_memory, config.num_envs)
        self._memory = jax.jit(memory, out_shardings=parallel.batch_sharding(mesh))()
        rng = jax.random.fold_in(jax.device_get(state.rng), int(state.step))
        self._collector = RolloutCollector(setup.policy, pools, mesh, config.num_envs, config.unroll_length, rng)
        self._items = list(REWARDS[config.rewards])
        self._acting_params = acting_params(mesh, setup.policy.dtype)

    def rollouts(self, stop: StopSignal) -> Iterator[Rollout]:
        """Yields rollouts, each collected with the newest policy."""
        while rollout := self._collector.collect(
            self._acting_params(self._state.params), self._state.normalizer, self._num_steps, stop
        ):
            yield rollout

    def learn(self, state: LearnerState, rollout: Rollout) -> tuple[LearnerState, dict[str, Any]]:
        """Run one iteration; its metrics are those of the losses, and of the episodes that have ended."""
        self._state, self._memory, metrics = self._learner.learn(state, rollout, self._memory)
        episodes = [episode for pool in self._pools for episode in pool.episodes()]
        for reason in dict.fromkeys(episode.reason for episode in episodes if episode.reason):
            print(f"a game was lost: {reason}", flush=True)
        return self._state, metrics | episode_metrics(episodes, sum(pool.lost for pool in self._pools), self._items)


def episode_metrics(episodes: list[FinishedEpisode], lost: int, items: list[str]) -> dict[str, float]:
    """Metrics of finished episodes over all hosts: means, and the number of games lost since the start.

    `obtained/ITEM` is the mean count of a rewarded item per episode. Lost and shortened episodes are excluded.
    """
    rows = [
        (1.0, episode.reward, episode.steps, *(episode.obtained[item] for item in items))
        for episode in episodes
        if episode.ending in ("terminated", "truncated")
    ]
    sums = np.append(np.reshape(rows, (-1, 3 + len(items))).sum(axis=0), lost)
    count, *totals, total_lost = parallel.sum_over_hosts(sums).tolist()
    names = "return", "episode_steps", *(f"obtained/{item}" for item in items)
    means = {name: total / count for name, total in zip(names, totals, strict=True)} if count else {}
    return {"episodes": count, "games_lost": total_lost, **means}


def rollout_length(config: ConfigDict) -> int:
    """Number of steps in a rollout."""
    return config.updates_per_rollout * config.unroll_length


def make_pools(config: ConfigDict, mesh: Mesh, start: int, stack: ExitStack) -> "list[Pool | RemotePool]":
    """Returns the environments of this host, in one part or two (`rollout.count_parts`); their games start.

    `stack` closes them. A run that is resumed at iteration `start` plays other episodes than before.

    Raises:
        ConfigError: `config.game.num_machines` is set, and Ray is not installed or has no cluster.
    """
    played = start * config.num_envs * rollout_length(config)  # no iteration plays more episodes
    first_seed = episode_seed(config.game.seed) + played
    machines = config.game.num_machines // jax.process_count()
    parts = 1 if machines % 2 else count_parts(config.num_envs, mesh, config.game.parts)
    limits = first_limits(config)
    arguments: dict[str, Any] = dict(
        env_spec=make_env_spec(
            config.game.name,
            config.game.arguments.to_dict(),
            config.game.python,
            space=run_space(config),
            games_per_process=config.game.games_per_process,
        ),
        size=frame_size(config),
        rewards=REWARDS[config.rewards],
        episodes_per_process=config.game.episodes_per_process,
        wait_for_resets=GAMES[config.game.name].wait_for_resets,
    )
    make: Callable[..., Pool | RemotePool] = (
        _remote_pools(config, machines // parts) if config.game.num_machines else _local_pool
    )
    rows = parallel.local_rows(mesh, config.num_envs)
    pools: list[Pool | RemotePool] = []
    for part in range(parts):
        seeds = [(first_seed + row, config.num_envs) for row in rows[part::parts]]
        pool = make(seeds=seeds, first_limits=[limits[row] for row in rows[part::parts]], **arguments)
        stack.enter_context(pool)
        pool.start()
        pools.append(pool)
    return pools


def _local_pool(seeds: Sequence[tuple[int, int]], **arguments: Any) -> Pool:
    return Pool(seeds=[itertools.count(first, stride) for first, stride in seeds], **arguments)


def _remote_pools(config: ConfigDict, machines: int) -> "Callable[..., RemotePool]":
    """Function that makes a part's environments on `machines` machines of the Ray cluster, which this program joins."""
    try:
        from vpt_jax.envs.vector.remote import RemotePool, join_cluster
    except ImportError as error:
        raise ConfigError(
            f'config.game.num_machines needs Ray: pip install -c constraints.txt -e ".[ray]" ({error})'
        ) from error
    try:
        join_cluster(config.game.cluster)
    except ConnectionError as error:
        raise ConfigError(f"config.game.cluster is {config.game.cluster!r}: {error}") from error
    return partial(RemotePool, machines, config.game.cpus)


def first_limits(config: ConfigDict) -> list[int | None]:
    """Returns the step at which each game's first episode is cut, so that later the games are spread over the episode.

    Otherwise, games with episodes of equal length stay synchronized, and every update is from one time of the episode.
    None: not cut.
    """
    if not config.game.stagger:
        return [None] * config.num_envs
    steps = round(config.game.arguments.seconds * FRAME_RATE)
    return [max(1, (row + 1) * steps // config.num_envs) for row in range(config.num_envs)]


def checkpoint_metadata(config: ConfigDict) -> dict[str, Any]:
    """Run metadata that is stored in the checkpoint with the state."""
    metadata = run_metadata(config, environment_metadata(config), space=run_space(config))
    sleep_optimizer = {_SLEEP_OPTIMIZER: True} if has_sleep_optimizer(make_ppg_config(config)) else {}
    return metadata | {"optimizer": metadata["optimizer"] | sleep_optimizer}


def environment_metadata(config: ConfigDict) -> dict[str, Any]:
    """Identity of the environment, which must not change when a run is resumed."""
    game = {"name": config.game.name, "arguments": jsonable(config.game.arguments)}
    return {"game": game, "rewards": config.rewards, "frame_shape": [*frame_size(config), 3]}
