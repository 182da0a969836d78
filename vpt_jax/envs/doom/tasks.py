"""Doom tasks: a level with a time limit, and counts in `info`, from which `rewards.py` computes the reward.

In addition to the counts of `DoomEnv` (health, items, kills, hits ...) there are

- `places`, the number of squares of 128 map units, the width of a door, that the player has visited;
- `doors`, the number of doors that it has gone through;
- `pickups.ammo`, `pickups.health` and `pickups.armor`, how often it has picked some up: amounts differ between items;
- `still`, the seconds in which it has stood still.

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
_AMOUNTS = {"ammo": [f"ammo.{slot}" for slot in range(1, 8)], "health": ["health"], "armor": ["armor"]}
_STILL = 0.5  # map units in a step, below which the player stands; walking is 10 to 20


def make(seconds: float = 60.0, level: str = "E1M5", **arguments: Any) -> gymnasium.Env[Any, Any]:
    """Returns the environment, with a time limit of `seconds`; the other arguments are those of `DoomEnv`."""
    return TimeLimit(CountProgress(DoomEnv(level, **arguments)), round(seconds * FRAME_RATE))


def make_scripted(seconds: float, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """Returns the same environment played by `DoomRunner`, which ignores the given actions: a baseline."""
    return TimeLimit(PlayScripted(CountProgress(DoomEnv(**arguments, objects=True))), round(seconds * FRAME_RATE))


class CountProgress(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Wrapper that adds the counts of the module's description to `info`."""

    def __init__(self, env: DoomEnv):
        super().__init__(env)
        geometry = read_geometry(env.level)
        lines = np.isin(geometry.special, (*DOORS, *KEYED_DOORS))
        self._lines, self._sectors = geometry.ends[lines], geometry.sides[lines, 1]  # a door is on the left of its line

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start an episode; `places` is 1, the other counts are 0."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._places = {_place(info)}
        self._doors: set[int] = set()
        self._pickups, self._still_steps = dict.fromkeys(_AMOUNTS, 0), 0
        self._before = info
        return observation, self._with_counts(info)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out a step, and update the counts."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._update(info)
        return observation, float(reward), terminated, truncated, self._with_counts(info)

    def _update(self, info: Info) -> None:
        before, self._before = self._before, info
        start, end = (np.array([at["x"], at["y"]]) for at in (before, info))
        self._places.add(_place(info))
        distance = np.linalg.norm(end - start)
        if distance < PLACE_SIZE:  # farther: a teleport, which passes through nothing
            self._doors |= set(self._sectors[crosses(start, end, self._lines)].tolist())
        self._still_steps += bool(distance < _STILL)
        for kind, names in _AMOUNTS.items():
            self._pickups[kind] += any(info[name] > before[name] for name in names)

    def _with_counts(self, info: Info) -> Info:
        counts = {"places": len(self._places), "doors": len(self._doors), "still": self._still_steps / FRAME_RATE}
        pickups = {f"pickups.{kind}": number for kind, number in self._pickups.items()}
        return info | {name: float(count) for name, count in (counts | pickups).items()}


def _place(info: Info) -> tuple[float, float]:
    return info["x"] // PLACE_SIZE, info["y"] // PLACE_SIZE


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
