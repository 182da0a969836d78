"""Fine-tune a policy by reinforcement learning in games; it reads in the order things happen."""

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vpt_jax import parallel
from vpt_jax.checkpoints import Checkpoints, facts_of, jsonable, note_settings
from vpt_jax.envs.games import GAMES, make_game
from vpt_jax.envs.pool import Episode, Games, Pool
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.training import loop
from vpt_jax.training.goodput import Goodput
from vpt_jax.training.metrics_log import MetricsLog, Progress, Work
from vpt_jax.training.ppg.learner import LearnerState, Rollout
from vpt_jax.training.ppg.rollout import Player
from vpt_jax.training.ppg.setup import Setup, check, first_params, frame_size, make_setup
from vpt_jax.training.setup import ConfigError, make_mesh

if TYPE_CHECKING:  # it needs Ray
    from vpt_jax.envs.remote import RemotePool


def train(config: ConfigDict, began: float) -> bool:
    """Returns whether it came to the end; `began`: when the process did, by `time.monotonic`."""
    # The machine, the policy, and where its tensors lie
    mesh = make_mesh(config)
    check(config, mesh)
    setup, workdir = make_setup(config, mesh), Path(config.workdir)
    print(f"{jax.device_count()} x {jax.devices()[0].device_kind}, {dict(mesh.shape)}; {config.games} games of "
          f"{config.game.name}, {dict(config.game.arguments)}", flush=True)  # fmt: skip

    with jax.set_mesh(mesh):
        # Resume the newest checkpoint of this run, or begin
        checkpoints = Checkpoints(
            workdir / "checkpoints", **config.checkpoint, facts=facts_of(config, stream_of(config))
        )
        if checkpoints.latest is None:
            state = setup.begin(first_params(config, setup.policy))
        else:
            print(f"resumed from step {checkpoints.latest}", flush=True)
            state = checkpoints.restore(setup.shapes, setup.shardings)
        note_settings(workdir, config, parallel.sharding_table(setup.shapes, setup.shardings))

        # Play and learn in turns
        start = int(state.step)
        with make_pool(config, start) as pool:
            apprentice = Apprentice(config, setup, mesh, pool, state)
            state = loop.run(
                state,
                schedule=loop.Schedule(config.steps, config.log_every, config.steps, config.save_every),
                train_step=apprentice.learn,
                batches=apprentice.rollouts(),
                evaluate=None,
                episodes=lambda step: [f"rollout {step + 1}"],
                checkpoints=checkpoints,
                log=MetricsLog(workdir, start, quiet=False),
                progress=Progress(start, config.steps, Work(config.games * turns(config)), False, headline="return"),
                goodput=Goodput(workdir, start, began, quiet=False),
            )
    return int(state.step) == config.steps


class Apprentice:
    """Plays with what it has learnt, and learns from what it has played."""

    def __init__(self, config: ConfigDict, setup: Setup, mesh: Mesh, pool: Games, state: LearnerState):
        self._pool, self._turns, self._state, self._learner = pool, turns(config), state, setup.learner
        self._place = partial(parallel.global_batch, mesh=mesh, batch=config.games)
        self._memory = self._place(jax.device_get(setup.policy.initial_memory(config.games)))
        self._player = Player(setup.policy, pool, config.games, jax.random.fold_in(state.rng, int(state.step)))

    def rollouts(self) -> Iterator[Rollout]:
        """One after the other, each by the newest policy."""
        while True:
            rollout = self._player.play(self._state.params, self._state.normalizer, self._turns)
            yield self._place(jax.device_get(rollout))

    def learn(self, state: LearnerState, rollout: Rollout) -> tuple[LearnerState, dict[str, Any]]:
        """An iteration, and its figures: those of the losses, and of the episodes that have ended."""
        self._state, self._memory, metrics = self._learner.learn(state, rollout, self._memory)
        episodes = self._pool.episodes()
        for reason in dict.fromkeys(episode.reason for episode in episodes if episode.reason):
            print(f"a game was lost: {reason}", flush=True)
        return self._state, metrics | figures_of(episodes, self._pool.lost)


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


def make_pool(config: ConfigDict, start: int) -> "Pool | RemotePool":
    """The games. A run that goes on after iteration `start` plays other episodes than it began with."""
    first_seed = config.game.seed + start * config.games * turns(config)  # no iteration plays more episodes
    arguments: dict[str, Any] = dict(
        game=make_game(config.game.name, config.game.arguments.to_dict(), config.game.python),
        rows=config.games,
        size=frame_size(config),
        rewards=REWARDS[config.rewards],
        episodes_per_process=config.game.episodes_per_process,
        wait_for_resets=GAMES[config.game.name].wait_for_resets,
    )
    if not config.game.machines:
        return Pool(seeds=itertools.count(first_seed), **arguments)
    try:
        import ray

        from vpt_jax.envs.remote import RemotePool
    except ImportError as error:
        raise ConfigError(
            f'config.game.machines needs Ray: pip install -c constraints.txt -e ".[ray]" ({error})'
        ) from error
    try:
        ray.init(config.game.cluster, ignore_reinit_error=True)
    except ConnectionError as error:
        raise ConfigError(f"config.game.cluster is {config.game.cluster!r}: {error}") from error
    return RemotePool(config.game.machines, config.game.cpus, first_seed=first_seed, **arguments)


def stream_of(config: ConfigDict) -> dict[str, Any]:
    """What is trained on: it must be the same when a run is resumed."""
    game = {"name": config.game.name, "arguments": jsonable(config.game.arguments)}
    return {"game": game, "rewards": config.rewards, "frame_shape": [*frame_size(config), 3]}
