"""Scripted Doom player that explores, collects items, opens doors and fights, using the game's internal state.

Each step it updates its perception and selects a command (combat if there is a target, else navigation), which a
`players.HumanInputModel` turns into keys and mouse moves with a person's speed and precision.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vpt_jax.actions.minerl import PITCH
from vpt_jax.envs.doom.bot.fighter import Fighter
from vpt_jax.envs.doom.bot.senses import Command, Senses
from vpt_jax.envs.doom.bot.terrain import Terrain
from vpt_jax.envs.doom.bot.traveller import Traveller
from vpt_jax.envs.doom.env import DoomEnv
from vpt_jax.envs.doom.level import read_geometry
from vpt_jax.envs.players import HumanInputModel

_IN_THE_WAY = ("Decoration", "Vegetation", "LightSource", "Hazard")  # categories of impassable objects
_MOVES = {"forward", "left", "right"}
_PITCHES = -22.0, 36.0  # degrees; within these, floor, ceiling and the space between them are in view
_NEAR = 80.0  # map units: closer than this, a sidestep is easier than a turn


class GazePitch:
    """View pitch while walking: ahead, at the floor or up a wall, equally often, for `pause` steps (min, max)."""

    def __init__(self, rng: np.random.Generator, pause: tuple[int, int]):
        self._rng, self._pause, self._degrees, self._steps = rng, pause, 0.0, 0

    def degrees(self) -> float:
        """Returns the pitch offset of this step, in degrees below the walking direction."""
        self._steps -= 1
        if self._steps < 0:
            self._steps = int(self._rng.integers(*self._pause))
            self._degrees = float(self._rng.choice([0, self._rng.uniform(-20, -10), self._rng.uniform(15, 33)]))
        return self._degrees


class DoomPlayer:
    """Scripted player of one episode: `env`, made with `objects=True`, must have just been reset."""

    _PAUSE = 10, 35  # steps between changes of the pitch
    caption = ""  # of the last action: what the player is doing

    def __init__(self, env: DoomEnv, seed: int):
        rng = np.random.default_rng(seed)
        things = [(item.position_x, item.position_y) for item in env.objects() if item.category in _IN_THE_WAY]
        terrain = Terrain(read_geometry(env.level), np.reshape(things, (-1, 2)))
        self._input, self._gaze = HumanInputModel(rng), GazePitch(rng, self._PAUSE)
        self._senses = Senses(env, terrain)
        self._fighter = Fighter(self._senses, terrain, rng)
        self._traveller = Traveller(self._senses, terrain, rng)

    def act(self, observation: Mapping[str, Any], info: Mapping[str, float]) -> dict[str, Any]:
        """Returns the next action, from `info` and the environment's objects; the frame is not used."""
        self._senses.update(info)
        combat = self._fighter.command()
        command = combat or self._traveller.command()
        self.caption = "fight" if combat else self._traveller.caption
        turn = np.zeros(2) if command.look is None else self._senses.turn_to(command.look)
        if not combat and command.look is not None:
            turn[PITCH] += self._gaze.degrees()
        turn[PITCH] = np.clip(info["pitch"] + turn[PITCH], *_PITCHES) - info["pitch"]
        return self._input.move(self._keys(command), turn, command.tolerance)

    def _keys(self, command: Command) -> set[str]:
        return set(command.keys) | self._walking_keys(command)

    def _walking_keys(self, command: Command) -> set[str]:
        """Returns the movement keys towards the walking target, for the current view direction."""
        if command.walk is None:
            return set()
        bearing = self._senses.bearing(command.walk)
        keys = {"forward"} if abs(bearing) < 50 else set()
        if self._senses.distance(command.walk) < _NEAR and 20 < abs(bearing) < 120:
            keys.add("left" if bearing > 0 else "right")
        return keys


class DoomRunner(DoomPlayer):
    """Variant with fewer keys, as training data for small models: it always runs, as most people do in Doom.

    It neither steps back nor jumps nor crouches, and keeps its weapon. It changes the pitch more often than
    `DoomPlayer`, about half as often as the yaw (people: nearly as often), so that pitch can be learnt.
    """

    _PAUSE = 6, 20

    def _keys(self, command: Command) -> set[str]:
        keys = super()._keys(command) & {*_MOVES, "attack", "use"}
        return keys | {"sprint"} if keys & _MOVES else keys
