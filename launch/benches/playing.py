"""How fast games are played."""

import itertools
import runpy
import time
from functools import partial
from pathlib import Path

import jax
from absl import flags
from benches.measuring import SECONDS, Row

from vpt_jax.envs.games import make_game
from vpt_jax.envs.rewards import REWARDS
from vpt_jax.envs.vector.client import GameLostError
from vpt_jax.envs.vector.pool import Pool
from vpt_jax.models.heads import ValueNormalizer
from vpt_jax.models.policy import Policy, init_params
from vpt_jax.models.presets import POLICIES
from vpt_jax.parallel import make_mesh
from vpt_jax.training.ppg.rollout import Player

_GAMES = flags.DEFINE_list("games", ["1", "2", "4", "8", "16"], "Games side by side, each in a process of its own.")

ERRORS: tuple[type[Exception], ...] = (GameLostError,)
ARGUMENTS = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "rl_doom.py"))["LEVEL"]
FRAME = 16, 16


def rollout() -> list[Row]:
    """Frames per second of all games together, and the share of time in which the policy waits for them."""
    return [_play(int(games)) for games in _GAMES.value]


def _play(games: int) -> Row:
    policy, normalizer = Policy(**POLICIES["tiny"]), ValueNormalizer.create()
    params, seeds = jax.jit(partial(init_params, policy, (*FRAME, 3)))(jax.random.key(0)), [itertools.count()] * games
    with Pool(make_game("doom", ARGUMENTS), seeds, FRAME, REWARDS["explore"]) as pool:
        player = Player(policy, pool, make_mesh(devices=jax.devices()[:1]), games, 32, jax.random.PRNGKey(0))
        player.play(params, normalizer, 32)  # compiles
        pool.waited, frames, began = 0.0, 0, time.monotonic()
        while (taken := time.monotonic() - began) < SECONDS.value:
            rollout = player.play(params, normalizer, 32)
            frames += int(rollout.valid.sum()) if rollout else 0
    return {
        "games": str(games),
        "frames/s": f"{frames / taken:,.0f}",
        "waiting for games": f"{pool.waited / taken:.0%}",
    }
