"""Goal selection of the scripted Doom player: unexplored places, items, and switches not pressed yet."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vpt_jax.envs.doom.bot.roadmap import Roadmap, Routes
from vpt_jax.envs.doom.bot.senses import ITEMS, Senses
from vpt_jax.envs.doom.bot.terrain import EYE_HEIGHT, Terrain
from vpt_jax.envs.doom.level import SWITCHES

_NEAR, _FAR = 120.0, 600.0  # minimum route cost of a place to explore, and of one to revisit
_ITEM_RANGE, _PICKUP_RANGE = 900.0, 30.0  # within which an item is a goal, and within which it is picked up
_STAND = 24.0  # distance from a switch at which to press it
_ITEM_COST_FACTOR, _SWITCH_COST_FACTOR = 0.5, 0.8  # of the route cost: preference over exploring
_TURN_COST = 1.5  # map units per degree between a place and the view's direction
_OPEN, _WALL_COST = 64.0, 8.0  # desired clearance of a place, and cost in map units for each missing unit
_DISTRICT_SIZE = 512.0  # map units
_NUM_PREFERENCES = 1009  # number of districts after which the preferences repeat


class Goal(NamedTuple):
    """Navigation goal; `kind` is "explore", "item" or "switch", `number` that of the item or the line."""

    kind: str
    node: int
    point: Float[np.ndarray, "3"]
    number: int = -1
    caption: str = "explore"  # what a person would say


class GoalChooser:
    """Selects the goal of least cost: the route cost, weighted by a random preference for every district."""

    def __init__(self, senses: Senses, terrain: Terrain, rng: np.random.Generator):
        self._senses, self._terrain, self._rng = senses, terrain, rng
        self._preference = rng.lognormal(0, 0.5, _NUM_PREFERENCES)
        self._finished: set[tuple[str, int]] = set()
        self._switches = np.flatnonzero(np.isin(terrain.geometry.special, SWITCHES))

    def finish(self, goal: Goal) -> None:
        """Exclude this goal from now on."""
        self._finished.add((goal.kind, goal.number))
        self._senses.mark_seen(goal.point[:2])

    def choose(self, roadmap: Roadmap, routes: Routes) -> Goal | None:
        """Returns the goal of least cost, or None if no place can be reached."""
        options = [*self._places(roadmap, routes), *self._items(roadmap, routes), *self._presses(roadmap, routes)]
        cost, goal = min(options, key=lambda option: option[0], default=(np.inf, None))
        return goal if np.isfinite(cost) else None

    def _places(self, roadmap: Roadmap, routes: Routes) -> Iterator[tuple[float, Goal]]:
        """Yields the best unseen place with its cost; when all have been seen, a random distant place."""
        reachable = np.isfinite(routes.cost)
        nodes = np.flatnonzero(reachable & (routes.cost > _NEAR) & ~self._senses.has_seen(roadmap.position))
        if not len(nodes):
            far = min(_FAR, routes.cost[reachable].max() / 2)
            nodes = self._rng.choice(np.flatnonzero(reachable & (routes.cost >= far)), 1)
        position = roadmap.position[nodes]
        preference = self._preference[(position // _DISTRICT_SIZE).astype(int) @ (1, 31) % _NUM_PREFERENCES]
        turn = _TURN_COST * np.abs(self._senses.bearing(position))
        walls = _WALL_COST * np.clip(_OPEN - roadmap.clearance[nodes], 0, None)
        value = (routes.cost[nodes] + turn + walls) * preference
        node = int(nodes[value.argmin()])
        yield float(value.min()), Goal("explore", node, self._eye_level(roadmap, node))

    def _items(self, roadmap: Roadmap, routes: Routes) -> Iterator[tuple[float, Goal]]:
        """Yields nearby items that the player has seen, with their costs."""
        for thing in self._senses.things:
            wanted = thing.category in ITEMS and ("item", thing.number) not in self._finished
            near = wanted and self._senses.distance(thing.position) < _ITEM_RANGE
            if near and self._senses.has_seen(thing.position[:2]):
                node = roadmap.node_at(thing.position[:2])
                if np.linalg.norm(self._eye_level(roadmap, node) - (0, 0, EYE_HEIGHT) - thing.position) < _PICKUP_RANGE:
                    yield (
                        _ITEM_COST_FACTOR * routes.cost[node],
                        Goal("item", node, thing.position, thing.number, f"collect {thing.category.lower()}"),
                    )

    def _presses(self, roadmap: Roadmap, routes: Routes) -> Iterator[tuple[float, Goal]]:
        """Yields switches that the player has seen, with costs; they are pressed from the right side of their line."""
        for line in self._switches:
            start, end = self._terrain.geometry.ends[line]
            x, y = (end - start) / np.linalg.norm(end - start)
            place = (start + end) / 2 + _STAND * np.array([y, -x])
            if ("switch", line) not in self._finished and self._senses.has_seen(place):
                node = roadmap.node_at(place)
                point = np.append((start + end) / 2, self._eye_level(roadmap, node)[2])
                yield (
                    _SWITCH_COST_FACTOR * routes.cost[node],
                    Goal("switch", node, point, int(line), "press the switch"),
                )

    def _eye_level(self, roadmap: Roadmap, node: int) -> Float[np.ndarray, "3"]:
        return np.append(roadmap.position[node], self._terrain.floor[roadmap.sector[node]] + EYE_HEIGHT)
