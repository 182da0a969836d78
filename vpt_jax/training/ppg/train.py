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
from vpt_jax.envs.games import GAMES, make_game
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector.pool import Episode, Games, Pool
from vpt_jax.parallel import say
from vpt_jax.system.seeds import episode_seed
from vpt_jax.training import loop
from vpt_jax.training.checkpoints import Checkpoints, SettingsChangedError, facts_of, jsonable, note_settings
from vpt_jax.training.goodput import Goodput
from vpt_jax.training.metrics_log import MetricsLog, Progress, Work
from vpt_jax.training.ppg.learner import LearnerState, Rollout
from vpt_jax.training.ppg.rollout import Player
from vpt_jax.training.ppg.setup import (
    VALUE_HEADS,
    Setup,
    check,
    first_model,
    frame_size,
    has_sleep_optimizer,
    make_setup,
    recipe_of,
)
from vpt_jax.training.setup import ConfigError, make_mesh
from vpt_jax.video import FRAME_RATE

if TYPE_CHECKING:  # it needs Ray
    from vpt_jax.envs.vector.remote import RemotePool


_SLEEP_OPTIMIZER = "sleep_optimizer"  # in a checkpoint's facts, where there is one


def train(config: ConfigDict, began: float) -> bool:
    """Returns whether it came to the end; `began`: when the process did, by `time.monotonic`."""
    # The machine, the policy, and where its tensors lie
    mesh = make_mesh(config)
    check(config, mesh)
    setup, workdir = make_setup(config, mesh), Path(config.workdir)
    say(
        f"{jax.process_count()} process(es), {jax.device_count()} x {jax.devices()[0].device_kind}, "
        f"{dict(mesh.shape)}; {config.games} games of {config.game.name}, {dict(config.game.arguments)}"
    )

    with jax.set_mesh(mesh):
        # Resume the newest checkpoint of this run, or begin
        checkpoints = Checkpoints(workdir / "checkpoints", **config.checkpoint, facts=facts(config))
        state = begin(config, setup) if checkpoints.latest is None else resume(checkpoints, setup)
        note_settings(workdir, config, parallel.sharding_table(setup.shapes, setup.shardings))

        # Play and learn in turns
        start, quiet = int(state.step), jax.process_index() > 0
        with loop.StopSignal() as stop, make_pool(config, mesh, start) as pool:
            apprentice = Apprentice(config, setup, mesh, pool, state)
            state = loop.run(
                state,
                schedule=loop.Schedule(config.steps, config.log_every, config.steps, config.save_every),
                train_step=apprentice.learn,
                batches=apprentice.rollouts(stop),
                stop=stop,
                evaluate=None,
                episodes=lambda step: [f"rollout {step + 1}"],
                checkpoints=checkpoints,
                log=MetricsLog(workdir, start, quiet),
                progress=Progress(start, config.steps, Work(config.games * turns(config)), quiet, headline="return"),
                goodput=Goodput(workdir, start, began, quiet),
                hang_minutes=config.hang_minutes,
            )
    return int(state.step) == config.steps


def begin(config: ConfigDict, setup: Setup) -> LearnerState:
    """The first state."""
    model = first_model(config, setup.policy)
    heads = {name: f"kept from {config.init_from}" if name in model.kept else "new" for name in VALUE_HEADS}
    say("value heads: " + ", ".join(f"{name} {source}" for name, source in heads.items()))
    return setup.begin(model.params, model.normalizer)


def resume(checkpoints: Checkpoints, setup: Setup) -> LearnerState:
    """The state of the newest checkpoint.

    Raises:
        SettingsChangedError: it is of other settings, or of a version that had one optimizer for wake and sleep.
    """
    try:
        state = checkpoints.restore(setup.shapes, setup.shardings)
    except SettingsChangedError as error:
        if _SLEEP_OPTIMIZER not in str(error):
            raise
        raise SettingsChangedError(
            f"{error} config.ppg.sleep_optimizer says whether the checkpoint holds an optimizer state for the sleep. "
            "Earlier versions had one state for wake and sleep: --config.ppg.sleep_optimizer=False goes on with their "
            "runs, by today's rules of rewards, minibatches and the value normaliser."
        ) from error
    say(f"resumed from step {checkpoints.latest}")
    return state


class Apprentice:
    """Plays with what it has learnt, and learns from what it has played."""

    def __init__(self, config: ConfigDict, setup: Setup, mesh: Mesh, pool: Games, state: LearnerState):
        self._pool, self._turns, self._state, self._learner = pool, turns(config), state, setup.learner
        memory = partial(setup.policy.initial_memory, config.games)
        self._memory = jax.jit(memory, out_shardings=parallel.batch_sharding(mesh))()
        rng = jax.random.fold_in(jax.device_get(state.rng), int(state.step))
        self._player = Player(setup.policy, pool, mesh, config.games, config.length, rng)
        self._items = list(REWARDS[config.rewards])

    def rollouts(self, stop: loop.StopSignal) -> Iterator[Rollout]:
        """One after the other, each by the newest policy."""
        while rollout := self._player.play(self._state.params, self._state.normalizer, self._turns, stop):
            yield rollout

    def learn(self, state: LearnerState, rollout: Rollout) -> tuple[LearnerState, dict[str, Any]]:
        """An iteration, and its figures: those of the losses, and of the episodes that have ended."""
        self._state, self._memory, metrics = self._learner.learn(state, rollout, self._memory)
        episodes = self._pool.episodes()
        for reason in dict.fromkeys(episode.reason for episode in episodes if episode.reason):
            print(f"a game was lost: {reason}", flush=True)
        return self._state, metrics | figures_of(episodes, self._pool.lost, self._items)


def figures_of(episodes: list[Episode], lost: int, items: list[str]) -> dict[str, float]:
    """Of all hosts: means over whole episodes, and how many games were lost since the start.

    `obtained/ITEM` is how much of what is rewarded an episode has. Lost and shortened episodes count nowhere.
    """
    whole = [
        (1.0, episode.reward, episode.steps, *(episode.obtained[item] for item in items))
        for episode in episodes
        if episode.ending in ("terminated", "truncated")
    ]
    sums = np.append(np.reshape(whole, (-1, 3 + len(items))).sum(axis=0), lost)
    count, *of_all, lost_anywhere = parallel.sum_over_hosts(sums).tolist()
    names = "return", "episode_steps", *(f"obtained/{item}" for item in items)
    means = {name: total / count for name, total in zip(names, of_all, strict=True)} if count else {}
    return {"episodes": count, "games_lost": lost_anywhere, **means}


def turns(config: ConfigDict) -> int:
    """Of a rollout."""
    return config.fragments * config.length


def make_pool(config: ConfigDict, mesh: Mesh, start: int) -> "Pool | RemotePool":
    """The games of this host. A run that goes on after iteration `start` plays other episodes than it began with."""
    played = start * config.games * turns(config)  # no iteration plays more episodes
    first_seed = episode_seed(config.game.seed) + played
    rows = parallel.local_rows(mesh, config.games)
    seeds = [(first_seed + row, config.games) for row in rows]
    limits = first_limits(config)
    arguments: dict[str, Any] = dict(
        game=make_game(config.game.name, config.game.arguments.to_dict(), config.game.python),
        size=frame_size(config),
        rewards=REWARDS[config.rewards],
        episodes_per_process=config.game.episodes_per_process,
        wait_for_resets=GAMES[config.game.name].wait_for_resets,
    )
    if not config.game.machines:
        streams = [itertools.count(*of_row) for of_row in seeds]
        return Pool(seeds=streams, first_limits=[limits[row] for row in rows], **arguments)
    try:
        from vpt_jax.envs.vector.remote import RemotePool, join_cluster
    except ImportError as error:
        raise ConfigError(
            f'config.game.machines needs Ray: pip install -c constraints.txt -e ".[ray]" ({error})'
        ) from error
    try:
        join_cluster(config.game.cluster)
    except ConnectionError as error:
        raise ConfigError(f"config.game.cluster is {config.game.cluster!r}: {error}") from error
    machines = config.game.machines // jax.process_count()
    here = [limits[row] for row in rows]
    return RemotePool(machines, config.game.cpus, seeds=seeds, first_limits=here, **arguments)


def first_limits(config: ConfigDict) -> list[int | None]:
    """Steps after which each game's first episode is cut, so that games are spread over the episode from then on.

    Without it, games whose episodes are equally long stay in step for ever, and every update is of one moment of the
    episode. None: it is not cut.
    """
    if not config.game.stagger:
        return [None] * config.games
    whole = round(config.game.arguments.seconds * FRAME_RATE)
    return [max(1, (row + 1) * whole // config.games) for row in range(config.games)]


def facts(config: ConfigDict) -> dict[str, Any]:
    """Run metadata that is stored beside the state."""
    kept = facts_of(config, stream_of(config))
    own = {_SLEEP_OPTIMIZER: True} if has_sleep_optimizer(recipe_of(config)) else {}
    return kept | {"optimizer": kept["optimizer"] | own}


def stream_of(config: ConfigDict) -> dict[str, Any]:
    """What is trained on: it must be the same when a run is resumed."""
    game = {"name": config.game.name, "arguments": jsonable(config.game.arguments)}
    return {"game": game, "rewards": config.rewards, "frame_shape": [*frame_size(config), 3]}
