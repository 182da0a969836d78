"""Tasks in Doom: a level, a time, and what `info` counts of what there is to do. What of it is paid, `rewards.py` says.

Beside what `DoomEnv` counts (health, items, kills, hits ...) there is `places`: squares of 128 map units, the width of
a door, in which the player has been. Death ends the episode, since Doom's levels cannot be entered again.
"""

from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit

from vpt_jax.envs.doom.bot.player import DoomRunner
from vpt_jax.envs.doom.env import DoomEnv, Info, Observation
from vpt_jax.video import FRAME_RATE

PLACE = 128.0  # map units


def make(seconds: float, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """An episode of `seconds` at most; the other arguments are those of `DoomEnv`."""
    return TimeLimit(Explored(DoomEnv(**arguments)), round(seconds * FRAME_RATE))


def make_scripted(seconds: float, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """The same, played by `DoomRunner`, whatever action is given: something to compare with."""
    return TimeLimit(Scripted(Explored(DoomEnv(**arguments, objects=True))), round(seconds * FRAME_RATE))


class Explored(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Counts places into `info`."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """A new episode begins in its first place."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._places: set[tuple[float, float]] = set()
        return observation, self._count(info)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """The same step, and where it led."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, float(reward), terminated, truncated, self._count(info)

    def _count(self, info: Info) -> Info:
        self._places.add((info["x"] // PLACE, info["y"] // PLACE))
        return info | {"places": float(len(self._places))}


class Scripted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Plays by itself."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """A new episode, and a new player drawn by its seed."""
        self._seen = self.env.reset(seed=seed, options=options)
        self._player = DoomRunner(self.env.unwrapped, seed or 0)  # type: ignore[arg-type]
        return self._seen

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """What the player does; `action` is not looked at."""
        observation, reward, terminated, truncated, info = self.env.step(self._player.act(*self._seen))
        self._seen = observation, info
        return observation, float(reward), terminated, truncated, info
