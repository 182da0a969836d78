"""Doom tasks: a level with a time limit, and counts in `info`, from which `rewards.py` computes the reward.

In addition to the counts of `DoomEnv` (health, items, kills, hits ...) there are `places`, the number of squares of 128
map units, the width of a door, that the player has visited, and `doors`, the number of doors that it has gone through.
Death ends the episode, since Doom's levels cannot be re-entered.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit

from vpt_jax.envs.doom.bot.machinery import crosses
from vpt_jax.envs.doom.bot.player import DoomRunner
from vpt_jax.envs.doom.env import DoomEnv, Info, Observation
from vpt_jax.envs.doom.level import DOORS, KEYED_DOORS, read_geometry
from vpt_jax.video import FRAME_RATE

PLACE_SIZE = 128.0  # map units


def make(seconds: float = 60.0, level: str = "E1M5", **arguments: Any) -> gymnasium.Env[Any, Any]:
    """Returns the environment, with a time limit of `seconds`; the other arguments are those of `DoomEnv`."""
    return TimeLimit(CountProgress(DoomEnv(level, **arguments)), round(seconds * FRAME_RATE))


def make_scripted(seconds: float, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """Returns the same environment played by `DoomRunner`, which ignores the given actions: a baseline."""
    return TimeLimit(PlayScripted(CountProgress(DoomEnv(**arguments, objects=True))), round(seconds * FRAME_RATE))


class CountProgress(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that adds the counts of visited places and of doors to `info`."""

    def __init__(self, env: DoomEnv):
        super().__init__(env)
        geometry = read_geometry(env.level)
        lines = np.isin(geometry.special, (*DOORS, *KEYED_DOORS))
        self._lines, self._sectors = geometry.ends[lines], geometry.sides[lines, 1]  # a door is on the left of its line

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode; `places` is 1, `doors` is 0."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._places: set[tuple[float, float]] = set()
        self._doors: set[int] = set()
        self._position = np.array([info["x"], info["y"]])
        return observation, self._count(info)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out a step, and update the counts."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, self._count(info)

    def _count(self, info: Info) -> Info:
        self._places.add((info["x"] // PLACE_SIZE, info["y"] // PLACE_SIZE))
        before, self._position = self._position, np.array([info["x"], info["y"]])
        self._doors |= set(self._sectors[crosses(before, self._position, self._lines)].tolist())
        return info | {"places": float(len(self._places)), "doors": float(len(self._doors))}


class PlayScripted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that replaces every action by that of a scripted player."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode, with a new player of the same seed."""
        self._observed = self.env.reset(seed=seed, options=options)
        self._player = DoomRunner(self.env.unwrapped, seed or 0)  # type: ignore[arg-type]
        return self._observed

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out the action of the scripted player; `action` is ignored."""
        observation, reward, terminated, truncated, info = self.env.step(self._player.act(*self._observed))
        self._observed = observation, info
        return observation, float(reward), terminated, truncated, info
