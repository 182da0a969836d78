"""State of doors, lifts, keys and walk-over triggers, as the scripted Doom player changes them."""

import numpy as np
from jaxtyping import Bool, Float

from vpt_jax.envs.doom.bot.senses import Senses
from vpt_jax.envs.doom.bot.terrain import BODY_HEIGHT, STEP, Numbers, Terrain
from vpt_jax.envs.doom.level import DOORS, EXITS, KEYED_DOORS, LIFTS, SWITCHES, TELEPORTS

STAYS = 90  # steps that a door stays open or a lift down; used again earlier, it would close
_REACH = 40.0  # map units, of the use key; the game's is 64
_MAX_USES = 8  # uses, after which a door is ignored
_CROSSED = 24.0  # distance of the player's centre from a line at which it counts as crossed


class Machinery:
    """Tracker of the moving parts of a level: updates `terrain` with what has become passable."""

    def __init__(self, senses: Senses, terrain: Terrain):
        self._senses, self._terrain, self._geometry = senses, terrain, terrain.geometry
        special = self._geometry.special
        self._doors = np.flatnonzero(np.isin(special, (*DOORS, *KEYED_DOORS, *LIFTS)))
        by_hand = (0, *DOORS, *KEYED_DOORS, *LIFTS, *SWITCHES, *EXITS, *TELEPORTS)
        self._trips = np.flatnonzero((self._geometry.tag > 0) & ~np.isin(special, by_hand))  # not walked over yet
        self._uses: dict[int, list[int]] = {}  # door or lift: the steps when it was used
        self._keys: dict[int, str] = {}
        self._step = 0

    def update(self) -> bool:
        """Update once per step the triggers crossed and keys taken; returns True if there is a new one."""
        self._step += 1
        position = self._senses.position
        crossed = np.linalg.norm(_nearest(position, self._geometry.ends[self._trips]) - position, axis=1) < _CROSSED
        tags = set(self._geometry.tag[self._trips[crossed]].tolist())
        self._trips = self._trips[~crossed]
        for tag in tags:
            self._terrain.trigger(tag)
        keys = {thing.number: thing.name for thing in self._senses.things if thing.category == "Key"}
        taken = [self._keys[number] for number in self._keys.keys() - keys.keys()]
        for name in taken:
            self._terrain.unlock(name.removesuffix("Card").removesuffix("Skull"))
        self._keys = keys
        return bool(tags or taken)

    def press(self, line: int) -> None:
        """Record that a switch has been pressed."""
        self._terrain.trigger(int(self._geometry.tag[line]))

    def door_towards(self, target: Float[np.ndarray, "2"], pause: int = STAYS) -> int | None:
        """Returns the line of a closed door or lift right ahead that has not been used for `pause` steps, or None."""
        start = self._senses.position
        way = target - start
        end = start + way * _REACH / max(float(np.linalg.norm(way)), 1.0)
        for line in self._doors[crosses(start, end, self._geometry.ends[self._doors])]:
            uses = self._uses.get(self._mover(line), [])
            if self._is_shut(line) and len(uses) < _MAX_USES and self._step - (uses or [-pause])[-1] >= pause:
                return int(line)
        return None

    def use(self, line: int) -> Float[np.ndarray, "2"]:
        """Record that a door or lift is used now; returns the point (x, y) to aim at."""
        self._uses.setdefault(self._mover(line), []).append(self._step)
        return _nearest(self._senses.position, self._geometry.ends[line][None])[0]

    def _is_shut(self, line: int) -> bool:
        """True if the line can be crossed after a door or lift has moved, but not in the initial level."""
        terrain = self._terrain
        a, b = self._geometry.ends[line]
        there, here = self._geometry.sides[line][::-1]
        if _cross(b - a, self._senses.position - a) > 0:
            return False  # on its left, where it cannot be used
        room = min(terrain.ceiling[here], terrain.ceiling[there]) - max(terrain.floor[here], terrain.floor[there])
        shut = room < BODY_HEIGHT or terrain.floor[there] - terrain.floor[here] > STEP
        return bool(shut and terrain.sectors.at(here).lead_to(terrain.sectors.at(there)))

    def _mover(self, line: int) -> int:
        """Returns an identifier of what a line moves: the sectors of its tag, or the sector on its left."""
        is_lift = self._geometry.special[line] in LIFTS
        return int(self._geometry.tag[line]) if is_lift else -1 - int(self._geometry.sides[line, 1])


def _cross(a: Float[np.ndarray, "*n 2"], b: Float[np.ndarray, "*m 2"]) -> Float[Numbers, "..."]:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def crosses(
    start: Float[np.ndarray, "2"], end: Float[np.ndarray, "2"], lines: Float[np.ndarray, "n 2 2"]
) -> Bool[np.ndarray, " n"]:
    """Mask of the lines that the segment from `start` to `end` crosses."""
    a, b = lines[:, 0], lines[:, 1]
    parted = _cross(a - start, end - start) * _cross(b - start, end - start) < 0
    return parted & (_cross(start - a, b - a) * _cross(end - a, b - a) < 0)


def _nearest(point: Float[np.ndarray, "2"], lines: Float[np.ndarray, "n 2 2"]) -> Float[np.ndarray, "n 2"]:
    """Returns the point of every line that is nearest to a given point."""
    a, along = lines[:, 0], lines[:, 1] - lines[:, 0]
    share = np.clip(((point - a) * along).sum(1) / (along**2).sum(1), 0, 1)
    return a + share[:, None] * along
