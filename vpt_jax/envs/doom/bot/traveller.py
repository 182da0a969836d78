"""Navigation of the scripted Doom player: follows the route to its goal, uses doors and lifts, and rests at times.

It executes a sequence of behaviours (walk a step, open a door, rest, get free), each a generator of commands.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from vpt_jax.envs.doom.bot.goals import Goal, GoalChooser
from vpt_jax.envs.doom.bot.machinery import Machinery
from vpt_jax.envs.doom.bot.roadmap import Roadmap
from vpt_jax.envs.doom.bot.senses import Command, Senses
from vpt_jax.envs.doom.bot.terrain import EYE_HEIGHT, Terrain

_ARRIVED = {"explore": 90.0, "item": 30.0, "switch": 56.0}  # map units from the goal
_MAX_OFF_ROUTE = 96.0  # map units from the route, beyond which it is planned again
_STRIDES = (40, 24, 14, 8, 5, 3)  # nodes ahead on the route that are tried as the point to walk to
_REPLAN = 100  # steps
_CONFINED = 300.0  # route cost below which all reachable places count as confined
_SLOW, _STUCK_STEPS, _MAX_WAITS = 3.0, 14, 5  # map units per step, slow steps until stuck, waits on a lift until stuck
_GIVE_UP, _REST = 0.5, 0.008  # chances: to give up a goal when stuck, to rest at any step of walking


class Traveller:
    """Navigation controller: `command()`, called once per step, returns the command."""

    def __init__(self, senses: Senses, terrain: Terrain, rng: np.random.Generator):
        self._senses, self._terrain, self._rng = senses, terrain, rng
        self._machinery = Machinery(senses, terrain)
        self._goal_chooser = GoalChooser(senses, terrain, rng)
        self._roadmap = Roadmap(terrain)
        self._behaviour: Iterator[Command] = iter(())
        self.caption = ""  # of what the player does, such as "open the door"
        self._goal: Goal | None = None
        self._route, self._at = np.zeros((0, 2)), 0  # points to the goal, and index of the last one passed
        self._position = np.zeros(2)  # at the last step of walking
        self._since_plan = self._slow_steps = self._waits = 0
        self._sprints = False

    def command(self) -> Command:
        """Returns the command of this step."""
        self._since_plan += 1
        if self._machinery.update():
            self._rebuild_roadmap()
        while (command := next(self._behaviour, None)) is None:
            self._behaviour = self._next_behaviour()
        return command

    def _next_behaviour(self) -> Iterator[Command]:
        if self._slow_steps > _STUCK_STEPS:
            return self._unstick()
        if self._goal is None or self._since_plan > _REPLAN or self._is_off_route():
            self._plan()
        if self._goal is None:
            return self._rest()
        self.caption = self._goal.caption
        if self._senses.distance(self._goal.point) < _ARRIVED[self._goal.kind]:
            return self._arrive(self._goal)
        target = self._target()
        if (door := self._machinery.door_towards(target)) is not None:
            return self._open(door)
        return self._rest() if self._rng.random() < _REST else iter([self._walk(self._goal, target)])

    def _rebuild_roadmap(self) -> None:
        self._roadmap, self._goal = Roadmap(self._terrain), None

    def _plan(self) -> None:
        """Choose a goal and plan the route."""
        routes = self._roadmap.routes(self._roadmap.node_at(self._senses.position))
        if not (np.isfinite(routes.cost) & (routes.cost > _CONFINED)).any():
            self._terrain.reset_obstacles()  # the added obstacles have enclosed the player
            self._rebuild_roadmap()
            routes = self._roadmap.routes(self._roadmap.node_at(self._senses.position))
        self._goal, self._since_plan = self._goal_chooser.choose(self._roadmap, routes), 0
        self._sprints = bool(self._rng.random() < 0.6)
        if self._goal is not None:
            self._route, self._at = self._roadmap.position[routes.to(self._goal.node)], 0

    def _is_off_route(self) -> bool:
        """Advance along the route; returns True if it is too far away."""
        distance = np.linalg.norm(self._route[self._at : self._at + 20] - self._senses.position, axis=1)
        self._at += int(distance.argmin())
        return bool(distance.min() > _MAX_OFF_ROUTE)

    def _ahead(self, nodes: int) -> Float[np.ndarray, "2"]:
        return self._route[min(self._at + nodes, len(self._route) - 1)]

    def _target(self) -> Float[np.ndarray, "2"]:
        """Returns the farthest point of the route that can be reached in a straight line."""
        points = np.stack([self._ahead(nodes) for nodes in _STRIDES])
        walks, _ = self._terrain.can_walk(np.broadcast_to(self._senses.position, points.shape), points)
        return points[walks.argmax()] if walks.any() else self._ahead(2)

    def _walk(self, goal: Goal, target: Float[np.ndarray, "2"]) -> Command:
        """Returns the command of one step towards `target`, a point of the route, looking ahead."""
        slow = self._senses.distance(self._position) < _SLOW
        self._slow_steps = self._slow_steps + 1 if slow else max(0, self._slow_steps - 2)
        self._position = self._senses.position
        distance = self._senses.distance(target)
        sees_item = goal.kind == "item" and 100 < self._senses.distance(goal.point) < 250
        look = goal.point if sees_item else self._look_point(target)
        keys = set()
        if self._sprints and distance > 120:
            keys.add("sprint")
        if self._sprints and distance > 250 and self._rng.random() < 0.01:
            keys.add("jump")
        tolerance = float(np.clip(np.degrees(np.arctan2(14, distance)), 2.5, 7))
        return Command(look, target, frozenset(keys), tolerance)

    def _look_point(self, target: Float[np.ndarray, "2"]) -> Float[np.ndarray, "3"]:
        """Returns a point at eye level to look at while walking to `target`."""
        point = self._ahead(8) if self._senses.distance(target) < 80 else target
        return np.append(point, self._terrain.floor[self._terrain.sector_at(point)] + EYE_HEIGHT)

    def _unstick(self) -> Iterator[Command]:
        """Returns the behaviour when stuck: try a door once more, wait for a lift, or else get free."""
        self._slow_steps = 0
        if self._goal and (door := self._machinery.door_towards(self._target(), pause=_STUCK_STEPS)) is not None:
            return self._open(door)
        return self._wait() if self._may_ride() else self._get_free()

    def _may_ride(self) -> bool:
        """True if a lift or door may still move and let the player continue."""
        self._waits = self._waits + 1 if self._terrain.movable[self._terrain.sector_at(self._senses.position)] else 0
        return 0 < self._waits < _MAX_WAITS

    def _wait(self) -> Iterator[Command]:
        for _ in range(20):
            yield Command()

    def _get_free(self) -> Iterator[Command]:
        """Step aside, add an obstacle ahead, and plan another route."""
        way = self._target() - self._senses.position
        self._terrain.add_obstacle(self._senses.position + 28 * way / max(float(np.linalg.norm(way)), 1.0))
        if self._goal is not None and self._rng.random() < _GIVE_UP:
            self._goal_chooser.finish(self._goal)
        self._rebuild_roadmap()
        keys = {str(self._rng.choice(["left", "right"]))} | ({"jump"} if self._rng.random() < 0.5 else set())
        for step in range(int(self._rng.integers(6, 14))):
            yield Command(keys=frozenset(keys | {"back" if step < 4 else "forward"}))

    def _arrive(self, goal: Goal) -> Iterator[Command]:
        self._goal = None
        self._goal_chooser.finish(goal)
        if goal.kind == "switch":
            yield from self._press(goal.point)
            self._machinery.press(goal.number)
            self._rebuild_roadmap()
        if self._rng.random() < (0.4 if goal.kind == "item" else 0.8):
            yield from self._rest()

    def _open(self, door: int) -> Iterator[Command]:
        self.caption = "open the door"
        yield from self._press(np.append(self._machinery.use(door), self._senses.eye[2]))

    def _press(self, point: Float[np.ndarray, "3"]) -> Iterator[Command]:
        """Face a door or a switch, use it, and wait for its effect."""
        for _ in range(20):
            if abs(self._senses.bearing(point[:2])) < 15:
                break
            yield Command(look=point)
        for _ in range(3):
            yield Command(look=point, keys=frozenset({"use"}))
        for _ in range(int(self._rng.integers(12, 26))):
            yield Command(look=point)

    def _rest(self) -> Iterator[Command]:
        """Stand still for a moment, at random with a look in an open direction, or crouched."""
        self.caption = "rest"
        openness = (self._senses.openness + 1) ** 2
        angle = 2 * np.pi * self._rng.choice(len(openness), p=openness / openness.sum()) / len(openness)
        point = self._senses.eye + 300 * np.array([np.cos(angle), np.sin(angle), 0])
        glances = self._senses.open_ahead() < 200 or self._rng.random() < 0.5
        keys = frozenset({"sneak"}) if self._rng.random() < 0.1 else frozenset()
        for _ in range(4 + int(self._rng.geometric(1 / 22))):
            yield Command(look=point if glances else None, keys=keys, tolerance=8)
