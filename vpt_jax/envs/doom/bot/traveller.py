"""How the scripted player of Doom gets around: along the way to its goal, through doors, over lifts, resting at times.

What it does is a sequence of errands (walk a step, open a door, rest, get free), each a generator of wishes.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from vpt_jax.envs.doom.bot.goals import Chooser, Goal
from vpt_jax.envs.doom.bot.machinery import Machinery
from vpt_jax.envs.doom.bot.roadmap import Roadmap
from vpt_jax.envs.doom.bot.senses import Senses, Wish
from vpt_jax.envs.doom.bot.terrain import EYES, Terrain

_ARRIVED = {"explore": 90.0, "item": 30.0, "switch": 56.0}  # map units from the goal
_LOST = 96.0  # map units from the way that ask for another way
_STRIDES = (40, 24, 14, 8, 5, 3)  # nodes ahead on the way that are tried as the point to walk to
_REPLAN = 100  # steps
_CONFINED = 300.0  # map units to the farthest place that can be reached
_SLOW, _PATIENCE, _WAITS = 3.0, 14, 5  # map units per step, slow steps until stuck, waits on a lift until stuck
_GIVE_UP, _REST = 0.5, 0.008  # chances: to give up a goal when stuck, to rest at any step of walking


class Traveller:
    """`wish()`, once per step, says how to travel on."""

    def __init__(self, senses: Senses, terrain: Terrain, rng: np.random.Generator):
        self._senses, self._terrain, self._rng = senses, terrain, rng
        self._machinery = Machinery(senses, terrain)
        self._chooser = Chooser(senses, terrain, rng)
        self._roadmap = Roadmap(terrain)
        self._errand: Iterator[Wish] = iter(())
        self._goal: Goal | None = None
        self._way, self._at = np.zeros((0, 2)), 0  # points to the goal, and the one passed last
        self._position = np.zeros(2)  # at the last step of walking
        self._since_plan = self._slow_steps = self._waits = 0
        self._sprints = False

    def wish(self) -> Wish:
        """What to do now."""
        self._since_plan += 1
        if self._machinery.update():
            self._map_anew()
        while (wish := next(self._errand, None)) is None:
            self._errand = self._next_errand()
        return wish

    def _next_errand(self) -> Iterator[Wish]:
        if self._slow_steps > _PATIENCE:
            return self._overcome()
        if self._goal is None or self._since_plan > _REPLAN or self._is_lost():
            self._plan()
        if self._goal is None:
            return self._rest()
        if self._senses.distance(self._goal.point) < _ARRIVED[self._goal.kind]:
            return self._arrive(self._goal)
        target = self._target()
        if (door := self._machinery.door_towards(target)) is not None:
            return self._open(door)
        return self._rest() if self._rng.random() < _REST else iter([self._walk(self._goal, target)])

    def _map_anew(self) -> None:
        self._roadmap, self._goal = Roadmap(self._terrain), None

    def _plan(self) -> None:
        """Choose a goal and find the way there."""
        routes = self._roadmap.routes(self._roadmap.node_at(self._senses.position))
        if not (np.isfinite(routes.cost) & (routes.cost > _CONFINED)).any():
            self._terrain.forget_obstacles()  # what was remembered as in the way has shut the player in
            self._map_anew()
            routes = self._roadmap.routes(self._roadmap.node_at(self._senses.position))
        self._goal, self._since_plan = self._chooser.choose(self._roadmap, routes), 0
        self._sprints = bool(self._rng.random() < 0.6)
        if self._goal is not None:
            self._way, self._at = self._roadmap.position[routes.to(self._goal.node)], 0

    def _is_lost(self) -> bool:
        """Move on along the way; the answer is whether it is too far off."""
        distance = np.linalg.norm(self._way[self._at : self._at + 20] - self._senses.position, axis=1)
        self._at += int(distance.argmin())
        return bool(distance.min() > _LOST)

    def _ahead(self, nodes: int) -> Float[np.ndarray, "2"]:
        return self._way[min(self._at + nodes, len(self._way) - 1)]

    def _target(self) -> Float[np.ndarray, "2"]:
        """The farthest point of the way that can be walked to straight."""
        points = np.stack([self._ahead(nodes) for nodes in _STRIDES])
        walks, _ = self._terrain.can_walk(np.broadcast_to(self._senses.position, points.shape), points)
        return points[walks.argmax()] if walks.any() else self._ahead(2)

    def _walk(self, goal: Goal, target: Float[np.ndarray, "2"]) -> Wish:
        """One step towards `target`, a point of the way, looking where it leads."""
        slow = self._senses.distance(self._position) < _SLOW
        self._slow_steps = self._slow_steps + 1 if slow else max(0, self._slow_steps - 2)
        self._position = self._senses.position
        distance = self._senses.distance(target)
        sees_item = goal.kind == "item" and 100 < self._senses.distance(goal.point) < 250
        look = goal.point if sees_item else self._outlook(target)
        keys = set()
        if self._sprints and distance > 120:
            keys.add("sprint")
        if self._sprints and distance > 250 and self._rng.random() < 0.01:
            keys.add("jump")
        tolerance = float(np.clip(np.degrees(np.arctan2(14, distance)), 2.5, 7))
        return Wish(look, target, frozenset(keys), tolerance)

    def _outlook(self, target: Float[np.ndarray, "2"]) -> Float[np.ndarray, "3"]:
        """A point at eye level to look at while walking to `target`."""
        point = self._ahead(8) if self._senses.distance(target) < 80 else target
        return np.append(point, self._terrain.floor[self._terrain.sector_at(point)] + EYES)

    def _overcome(self) -> Iterator[Wish]:
        """What to do when stuck: try a door once more, wait for a lift, or else get free."""
        self._slow_steps = 0
        if self._goal and (door := self._machinery.door_towards(self._target(), pause=_PATIENCE)) is not None:
            return self._open(door)
        return self._wait() if self._may_ride() else self._get_free()

    def _may_ride(self) -> bool:
        """Whether a lift or door may yet move and let the player go on."""
        self._waits = self._waits + 1 if self._terrain.movable[self._terrain.sector_at(self._senses.position)] else 0
        return 0 < self._waits < _WAITS

    def _wait(self) -> Iterator[Wish]:
        for _ in range(20):
            yield Wish()

    def _get_free(self) -> Iterator[Wish]:
        """Step aside, remember that something stands in the way, and look for another way."""
        way = self._target() - self._senses.position
        self._terrain.add_obstacle(self._senses.position + 28 * way / max(float(np.linalg.norm(way)), 1.0))
        if self._goal is not None and self._rng.random() < _GIVE_UP:
            self._chooser.finish(self._goal)
        self._map_anew()
        keys = {str(self._rng.choice(["left", "right"]))} | ({"jump"} if self._rng.random() < 0.5 else set())
        for step in range(int(self._rng.integers(6, 14))):
            yield Wish(keys=frozenset(keys | {"back" if step < 4 else "forward"}))

    def _arrive(self, goal: Goal) -> Iterator[Wish]:
        self._goal = None
        self._chooser.finish(goal)
        if goal.kind == "switch":
            yield from self._press(goal.point)
            self._machinery.press(goal.number)
            self._map_anew()
        if self._rng.random() < (0.4 if goal.kind == "item" else 0.8):
            yield from self._rest()

    def _open(self, door: int) -> Iterator[Wish]:
        yield from self._press(np.append(self._machinery.use(door), self._senses.eye[2]))

    def _press(self, point: Float[np.ndarray, "3"]) -> Iterator[Wish]:
        """Face a door or a switch, use it, and wait to see what happens."""
        for _ in range(20):
            if abs(self._senses.bearing(point[:2])) < 15:
                break
            yield Wish(look=point)
        for _ in range(3):
            yield Wish(look=point, keys=frozenset({"use"}))
        for _ in range(int(self._rng.integers(12, 26))):
            yield Wish(look=point)

    def _rest(self) -> Iterator[Wish]:
        """Stand still for a moment, perhaps looking to where there is much to see, perhaps crouching."""
        openness = (self._senses.openness + 1) ** 2
        angle = 2 * np.pi * self._rng.choice(len(openness), p=openness / openness.sum()) / len(openness)
        point = self._senses.eye + 300 * np.array([np.cos(angle), np.sin(angle), 0])
        glances = self._senses.open_ahead() < 200 or self._rng.random() < 0.5
        keys = frozenset({"sneak"}) if self._rng.random() < 0.1 else frozenset()
        for _ in range(4 + int(self._rng.geometric(1 / 22))):
            yield Wish(look=point if glances else None, keys=keys, tolerance=8)
