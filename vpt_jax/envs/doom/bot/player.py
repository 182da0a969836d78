"""A scripted player of Doom that explores, collects, opens doors and fights, using what the game tells about itself.

Each step it perceives, decides what it wants (to fight where there is something to fight, else to travel on), and
leaves the doing to a `players.Hand`, whose keys and mouse are as slow and imprecise as a person's.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vpt_jax.actions import PITCH
from vpt_jax.envs.doom.bot.fighter import Fighter
from vpt_jax.envs.doom.bot.senses import Senses, Wish
from vpt_jax.envs.doom.bot.terrain import Terrain
from vpt_jax.envs.doom.bot.traveller import Traveller
from vpt_jax.envs.doom.env import DoomEnv
from vpt_jax.envs.doom.level import read_geometry
from vpt_jax.envs.players import Hand

_IN_THE_WAY = ("Decoration", "Vegetation", "LightSource", "Hazard")  # categories of things nobody walks through
_MOVES = {"forward", "left", "right"}
_PITCHES = -22.0, 36.0  # degrees; from there floor and ceiling are seen together with what is between them
_NEAR = 80.0  # map units: closer than this, a sidestep is easier than a turn


class Glance:
    """Where a walking player looks: ahead, at the floor or up a wall, each as often, for `pause` steps (from, to)."""

    def __init__(self, rng: np.random.Generator, pause: tuple[int, int]):
        self._rng, self._pause, self._degrees, self._steps = rng, pause, 0.0, 0

    def degrees(self) -> float:
        """How far below the way ahead to look in this step."""
        self._steps -= 1
        if self._steps < 0:
            self._steps = int(self._rng.integers(*self._pause))
            self._degrees = float(self._rng.choice([0, self._rng.uniform(-20, -10), self._rng.uniform(15, 33)]))
        return self._degrees


class DoomPlayer:
    """Plays the episode that `env`, made with `objects=True`, has just been reset to."""

    _PAUSE = 10, 35  # steps between glances

    def __init__(self, env: DoomEnv, seed: int):
        rng = np.random.default_rng(seed)
        things = [(item.position_x, item.position_y) for item in env.objects() if item.category in _IN_THE_WAY]
        terrain = Terrain(read_geometry(env.level), np.reshape(things, (-1, 2)))
        self._hand, self._glance = Hand(rng), Glance(rng, self._PAUSE)
        self._senses = Senses(env, terrain)
        self._fighter = Fighter(self._senses, terrain, rng)
        self._traveller = Traveller(self._senses, terrain, rng)

    def act(self, observation: Mapping[str, Any], info: Mapping[str, float]) -> dict[str, Any]:
        """The next action. What it knows of the game is in `info` and the environment; the picture is not looked at."""
        self._senses.update(info)
        fight = self._fighter.wish()
        wish = fight or self._traveller.wish()
        turn = np.zeros(2) if wish.look is None else self._senses.turn_to(wish.look)
        if not fight and wish.look is not None:
            turn[PITCH] += self._glance.degrees()
        turn[PITCH] = np.clip(info["pitch"] + turn[PITCH], *_PITCHES) - info["pitch"]
        return self._hand.move(self._keys(wish), turn, wish.tolerance)

    def _keys(self, wish: Wish) -> set[str]:
        return set(wish.keys) | self._walking_keys(wish)

    def _walking_keys(self, wish: Wish) -> set[str]:
        """The keys that bring the player closer to where it wants to walk, the way it faces now."""
        if wish.walk is None:
            return set()
        bearing = self._senses.bearing(wish.walk)
        keys = {"forward"} if abs(bearing) < 50 else set()
        if self._senses.distance(wish.walk) < _NEAR and 20 < abs(bearing) < 120:
            keys.add("left" if bearing > 0 else "right")
        return keys


class DoomRunner(DoomPlayer):
    """Plays with fewer keys, for small models to learn from: it runs whenever it moves, as most players of Doom do.

    It neither steps back nor jumps nor crouches, and fights with the weapon it has. It looks up and down more often
    than the other, about half as often as sideways (people: nearly as often), so that there is something to learn from.
    """

    _PAUSE = 6, 20

    def _keys(self, wish: Wish) -> set[str]:
        keys = super()._keys(wish) & {*_MOVES, "attack", "use"}
        return keys | {"sprint"} if keys & _MOVES else keys
