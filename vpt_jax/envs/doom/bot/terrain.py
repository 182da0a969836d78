"""Raster map of a Doom level: sector of a point, distance to walls, line of sight and walkability."""

from collections.abc import Collection
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int

from vpt_jax.envs.doom.level import DOORS, EXITS, KEYED_DOORS, LIFTS, Geometry

Numbers = Any  # np.ndarray; of one place, the NumPy scalar that arithmetic gives
PIXEL = 4.0  # map units
RADIUS = 16.0  # half the width of the player
BODY_HEIGHT, EYE_HEIGHT = 56.0, 41.0  # of the player, above the floor
STEP = 24.0  # the highest step that a player walks up
ROOM = RADIUS + PIXEL  # clearance at which a player certainly fits
_MARGIN = 16  # pixels of void around the level
_SOLID = 1e5  # floor of the void, and unlimited height of a ceiling
_BODY = 9  # pixels that a player's body may cover, across
_THING = 3  # pixels from the centre of an obstacle to its side


class Heights(NamedTuple):
    """Height ranges at many places: the floor moves between `lowest` and `highest`, the ceiling up to `top`."""

    lowest: Float[Numbers, "*n"]
    highest: Float[Numbers, "*n"]
    top: Float[Numbers, "*n"]

    def at(self, index: Any) -> "Heights":
        """Returns the heights at some of the places."""
        return Heights(*(heights[index] for heights in self))

    def lead_to(self, end: "Heights") -> Bool[Numbers, "*n"]:
        """Mask: a player can walk from each place to the adjacent one of `end` (no high step, room for its body)."""
        room = np.minimum(self.top, end.top) - np.maximum(self.lowest, end.lowest)
        return (end.lowest - self.highest <= STEP) & (room >= BODY_HEIGHT)


class Terrain:
    """Raster map of a level, in pixels of 4 map units.

    `floor` and `ceiling` are the initial heights of every sector, with the void last; doors, lifts and switches move
    some (`movable`), within the ranges of `sectors`. `body` has the heights for a player whose centre is at a pixel,
    and who stands on the highest floor under its body. `clearance` is the distance of every pixel to the nearest wall,
    along the axes: players are square in Doom.
    """

    def __init__(self, geometry: Geometry, things: Float[np.ndarray, "n 2"]):
        """`things` are the positions (x, y) of obstacles, such as torches."""
        self.geometry, self._things, self._obstacles = geometry, things, things
        self.floor, self.ceiling = np.append(geometry.floor, _SOLID), np.append(geometry.ceiling, -_SOLID)
        self.sectors = Heights(self.floor.copy(), self.floor.copy(), self.ceiling.copy())
        self.movable = np.zeros(len(self.floor), bool)
        self._origin = geometry.ends.min((0, 1)) - _MARGIN * PIXEL
        width, height = ((geometry.ends.max((0, 1)) - self._origin) / PIXEL).astype(int) + _MARGIN
        self.sector = _sector_raster((geometry.ends - self._origin) / PIXEL, geometry.sides, height, width)
        self._open_doors(DOORS)
        for lift in self._tagged(geometry.tag[np.isin(geometry.special, LIFTS)]):
            self.movable[lift], self.sectors.lowest[lift] = True, self._floors_around(lift).min()
        self._measure()

    def unlock(self, colour: str) -> None:
        """Make the doors of this colour passable, once the player has the key."""
        self._open_doors([special for special, needed in KEYED_DOORS.items() if needed == colour])
        self._measure()

    def trigger(self, tag: int) -> None:
        """Make the sectors of `tag` passable, once the player has triggered them."""
        for sector in self._tagged(np.array([tag])):
            floors = self._floors_around(sector)
            self.movable[sector], self.sectors.top[sector] = True, _SOLID
            self.sectors.lowest[sector], self.sectors.highest[sector] = floors.min(), floors.max()
        self._measure()

    def add_obstacle(self, point: Float[np.ndarray, "2"]) -> None:
        """Add an obstacle at a point."""
        self._obstacles = np.append(self._obstacles, point[None], 0)
        self._measure()

    def reset_obstacles(self) -> None:
        """Restore the initial obstacles."""
        self._obstacles = self._things
        self._measure()

    def pixels(self, points: Float[np.ndarray, "... 2"]) -> tuple[Int[Numbers, "..."], Int[Numbers, "..."]]:
        """Returns row and column of every point (x, y); points outside are clipped to the border."""
        column, row = np.moveaxis((points - self._origin) / PIXEL, -1, 0).astype(int)
        return np.clip(row, 0, self.sector.shape[0] - 1), np.clip(column, 0, self.sector.shape[1] - 1)

    def points(self, row: Int[np.ndarray, " n"], column: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
        """Returns the centre (x, y) of every pixel."""
        return self._origin + (np.stack([column, row], 1) + 0.5) * PIXEL

    def sector_at(self, points: Float[np.ndarray, "... 2"]) -> Int[Numbers, "..."]:
        """Returns the sector of every point."""
        return self.sector[self.pixels(points)]

    def line_of_sight(
        self, eye: Float[np.ndarray, "3"], targets: Float[np.ndarray, "n 3"], spacing: float = 2 * PIXEL
    ) -> tuple[Float[np.ndarray, "samples n 3"], Bool[np.ndarray, "samples n"]]:
        """Samples points (x, y, z) on the lines from `eye` to the targets; mask: nothing before the point is solid.

        Walls thinner than `spacing`, in map units, may be missed; doors are 8 or more.
        """
        points = _segment(eye, targets, spacing)
        sector, z = self.sector_at(points[..., :2]), points[..., 2]
        free = (z >= self.floor[sector]) & (z <= self.ceiling[sector])
        free |= self.movable[sector] & (sector == sector[0])  # from inside a door one can look out
        return points, np.logical_and.accumulate(free, axis=0)

    def can_walk(
        self, start: Float[np.ndarray, "*n 2"], end: Float[np.ndarray, "*n 2"]
    ) -> tuple[Bool[Numbers, "*n"], Bool[Numbers, "*n"]]:
        """Masks: the straight lines there, and those back, are free of walls and of steps too high to walk up."""
        pixels = self.pixels(_segment(start, end, 2 * PIXEL))
        heights, clear = self.body.at(pixels), (self.clearance[pixels] >= RADIUS).all(0)
        before, after = heights.at(slice(-1)), heights.at(slice(1, None))
        return clear & before.lead_to(after).all(0), clear & after.lead_to(before).all(0)

    def _open_doors(self, specials: Collection[int]) -> None:
        doors = self.geometry.sides[np.isin(self.geometry.special, list(specials)), 1]
        self.movable[doors], self.sectors.top[doors] = True, _SOLID

    def _tagged(self, tags: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        return np.flatnonzero(np.isin(self.geometry.sector_tag, tags[tags != 0]))

    def _floors_around(self, sector: int) -> Float[np.ndarray, " n"]:
        """Returns the floors of a sector and of its neighbours."""
        near = self.geometry.sides[(self.geometry.sides == sector).any(1)]
        return self.floor[near[near >= 0]]

    def _measure(self) -> None:
        lowest, highest, top = (heights.astype(np.float32)[self.sector] for heights in self.sectors)
        body = np.ones((_BODY, _BODY), np.uint8)
        self.body = Heights(cv2.dilate(lowest, body), cv2.dilate(highest, body), cv2.erode(top, body))
        free = (top - lowest >= BODY_HEIGHT).astype(np.uint8)
        walls = self.geometry.blocking | (self.geometry.sides < 0).any(1) | np.isin(self.geometry.special, EXITS)
        ends = (self.geometry.ends[walls] - self._origin) / PIXEL
        cv2.polylines(free, (ends * 16).astype(np.int32), False, 0, shift=4)
        for row, column in np.stack(self.pixels(self._obstacles), 1):
            free[max(row - _THING, 0) : row + _THING, max(column - _THING, 0) : column + _THING] = 0
        self.clearance = cv2.distanceTransform(free, cv2.DIST_C, 3) * PIXEL


def _segment(
    start: Float[np.ndarray, "*n d"], ends: Float[np.ndarray, "*ends d"], spacing: float
) -> Float[np.ndarray, "samples *ends d"]:
    """Returns points from every start to its end, both included, at most `spacing` apart."""
    longest = np.sqrt(((ends - start) ** 2).sum(-1).max(initial=0))
    share = np.linspace(0, 1, int(longest / spacing) + 2)
    return start + share.reshape(-1, *[1] * ends.ndim) * (ends - start)


def _sector_raster(
    ends: Float[np.ndarray, "lines 2 2"], sides: Int[np.ndarray, "lines 2"], height: int, width: int
) -> Int[np.ndarray, "h w"]:
    """Rasterizes the sectors: the sector of every pixel, -1 in the void; `ends` in pixels.

    Along a row of pixels, every line crossed changes the sector from that on one of its sides to that on the other: an
    XOR with both. So the XOR of all lines to the left of a pixel is its sector.
    """
    (x0, y0), (x1, y1) = ends[:, 0].T, ends[:, 1].T
    first, last = np.ceil(np.minimum(y0, y1) - 0.5), np.ceil(np.maximum(y0, y1) - 0.5)  # rows crossed at their middle
    crossings = (last - first).astype(int)
    line = np.repeat(np.arange(len(ends)), crossings)
    row = first[line] + np.arange(len(line)) - np.repeat(np.cumsum(crossings) - crossings, crossings)
    x = x0[line] + (row + 0.5 - y0[line]) / (y1 - y0)[line] * (x1 - x0)[line]
    change = (sides[line, 0] + 1) ^ (sides[line, 1] + 1)
    changes = np.zeros((height, width), np.int32)
    np.bitwise_xor.at(changes, (row.astype(int), np.ceil(x - 0.5).astype(int)), change)
    return np.bitwise_xor.accumulate(changes, axis=1) - 1
