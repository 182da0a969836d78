"""Perception state of the scripted Doom player: position, objects in sight, regions seen; and its commands."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vpt_jax.envs.doom.bot.terrain import EYE_HEIGHT, Numbers, Terrain
from vpt_jax.envs.doom.env import DoomEnv

ITEMS = ("Health", "Armor", "Ammo", "Weapon", "Key", "Powerup")
HALF_VIEW = 50.0  # degrees from the middle of the view to its side
_PERIOD = 4  # steps between two updates of objects and rays: about a person's reaction time
_SIGHT = 1600.0  # map units
_HEAD = (0, 0, 36.0)  # of a monster, above its feet
_RAYS = 40  # directions in which the free distance is measured
_RAY_LENGTH, _RAY_SPACING = 640.0, 16.0  # map units
_REGION = 16  # pixels of the terrain: size of a region that is marked as seen


class Thing(NamedTuple):
    """A monster or an item: the game's number for it, its name and category, and its position (x, y, z)."""

    number: int
    name: str
    category: str
    position: Float[np.ndarray, "3"]


class Command(NamedTuple):
    """Command of one step: a point to look at, a point to walk to, keys to hold."""

    look: Float[np.ndarray, "3"] | None = None
    walk: Float[np.ndarray, "2"] | None = None
    keys: frozenset[str] = frozenset()
    tolerance: float = 5.0  # degrees by which the view may miss `look`


class Senses:
    """Perception state; call `update` every step (objects and rays are refreshed every fourth step only).

    `things` are all monsters and items, `enemies` the monsters in sight, nearest first. `openness` is the distance
    to the first wall in 40 directions, counter-clockwise from the east.
    """

    def __init__(self, env: DoomEnv, terrain: Terrain):
        self._env, self._terrain, self._steps = env, terrain, 0
        self._seen = np.zeros([size // _REGION + 1 for size in terrain.sector.shape], bool)

    def update(self, info: Mapping[str, float]) -> None:
        """Update from the `info` of one step."""
        self.info = info
        self.position = np.array([info["x"], info["y"]])
        self.eye = np.array([info["x"], info["y"], info["z"] + EYE_HEIGHT])
        if self._steps % _PERIOD == 0:
            self.things = [_thing(item) for item in self._env.objects() if item.category in ("Monster", *ITEMS)]
            self.enemies = self._monsters_in_sight()
            self._cast_rays()
        self._steps += 1

    def turn_to(self, point: Float[np.ndarray, "3"]) -> Float[np.ndarray, "2"]:
        """Returns the turn (pitch, yaw) in degrees that centres the view on `point`."""
        x, y, z = point - self.eye
        pitch = -np.degrees(np.arctan2(z, np.hypot(x, y))) - self.info["pitch"]
        return np.array([pitch, -self.bearing(point[:2])])

    def bearing(self, points: Float[np.ndarray, "... 2"]) -> Float[Numbers, "..."]:
        """Degrees from the view's direction to that of every point (x, y), positive to the left."""
        x, y = np.moveaxis(points - self.position, -1, 0)
        return self._off_axis(np.degrees(np.arctan2(y, x)))

    def distance(self, point: Float[np.ndarray, " d"]) -> float:
        """Map units from the player to a point, as seen from above."""
        return float(np.hypot(*(point[:2] - self.position)))

    def open_ahead(self) -> float:
        """Distance to the first wall in the view's direction."""
        return float(self.openness[round(self.info["angle"] / 360 * _RAYS) % _RAYS])

    def has_seen(self, points: Float[np.ndarray, "... 2"]) -> Bool[Numbers, "..."]:
        """Mask of the points whose regions have been in view."""
        row, column = self._terrain.pixels(points)
        return self._seen[row // _REGION, column // _REGION]

    def mark_seen(self, points: Float[np.ndarray, "... 2"]) -> None:
        """Mark the regions of these points as seen."""
        row, column = self._terrain.pixels(points)
        self._seen[row // _REGION, column // _REGION] = True

    def _off_axis(self, degrees: Float[Numbers, "..."]) -> Float[Numbers, "..."]:
        return (degrees - self.info["angle"] + 180) % 360 - 180

    def _monsters_in_sight(self) -> list[Thing]:
        monsters = [
            thing for thing in self.things if thing.category == "Monster" and self.distance(thing.position) < _SIGHT
        ]
        heads = np.reshape([monster.position for monster in monsters], (-1, 3)) + _HEAD
        visible = self._terrain.line_of_sight(self.eye, heads)[1][-1]
        in_sight = [monster for monster, shows in zip(monsters, visible, strict=True) if shows]
        return sorted(in_sight, key=lambda monster: self.distance(monster.position))

    def _cast_rays(self) -> None:
        """Measure `openness` in all directions, and mark the regions in the field of view as seen."""
        degrees = np.arange(_RAYS) * 360 / _RAYS
        around = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees)), np.zeros(_RAYS)], 1)
        points, free = self._terrain.line_of_sight(self.eye, self.eye + _RAY_LENGTH * around, _RAY_SPACING)
        self.openness = free.mean(0) * _RAY_LENGTH
        in_view = np.abs(self._off_axis(degrees)) < HALF_VIEW
        self.mark_seen(points[free & in_view][:, :2])


def _thing(item) -> Thing:
    position = np.array([item.position_x, item.position_y, item.position_z])
    return Thing(item.id, item.name, item.category, position)
