"""Benchmark of rollouts: a policy in the embedded game."""

import itertools
import time
from functools import partial

import jax
from absl import flags
from benches.measuring import SECONDS, Row

from vpt_jax.configs import rl_doom
from vpt_jax.envs.games import make_env_spec
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector.client import EnvLostError
from vpt_jax.envs.vector.pool import Pool
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import POLICIES
from vpt_jax.models.value_normalizer import ValueNormalizer
from vpt_jax.parallel import make_mesh
from vpt_jax.training.ppg.rollout import RolloutCollector

_GAMES = flags.DEFINE_list("games", ["1", "2", "4", "8", "16"], "Numbers of parallel games, each in its own process.")

ERRORS: tuple[type[Exception], ...] = (EnvLostError,)
ARGUMENTS = rl_doom.LEVEL
FRAME = 16, 16


def rollout() -> list[Row]:
    """Frames per second of all games together, and the share of time that the policy waits for them."""
    return [_measure(int(games)) for games in _GAMES.value]


def _measure(games: int) -> Row:
    policy, normalizer = Policy(**POLICIES["tiny"]), ValueNormalizer.create()
    params, seeds = jax.jit(partial(init_params, policy, (*FRAME, 3)))(jax.random.key(0)), [itertools.count()] * games
    with Pool(make_env_spec("doom", ARGUMENTS), seeds, FRAME, REWARDS["explore"]) as pool:
        mesh, rng = make_mesh(devices=jax.devices()[:1]), jax.random.PRNGKey(0)
        collector = RolloutCollector(policy, pool, mesh, games, 32, rng)
        collector.collect(params, normalizer, 32)  # compiles
        pool.wait_seconds, frames, start_time = 0.0, 0, time.monotonic()
        while (elapsed := time.monotonic() - start_time) < SECONDS.value:
            rollout = collector.collect(params, normalizer, 32)
            frames += int(rollout.valid.sum()) if rollout else 0
    return {
        "games": str(games),
        "frames/s": f"{frames / elapsed:,.0f}",
        "waiting for games": f"{pool.wait_seconds / elapsed:.0%}",
    }
