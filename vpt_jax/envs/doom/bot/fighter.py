"""Combat of the scripted Doom player: choice of target and weapon, aiming, firing and dodging."""

import numpy as np
from jaxtyping import Float

from vpt_jax.envs.doom.bot.senses import HALF_VIEW, Command, Senses, Thing
from vpt_jax.envs.doom.bot.terrain import Terrain

_HEARING_RANGE = 250.0  # map units: a monster this close is noticed outside the view
_CHEST = (0, 0, 28.0)  # aiming point, above a monster's feet
_FISTS, _NEAR_WEAPONS, _FAR_WEAPONS, _FAR = 1, (3, 4, 6, 2), (4, 6, 3, 2, 5), 500.0  # weapon slots, best first
_SIDESTEPS = {"left": 90.0, "right": -90.0}  # degrees to the left of the view
_FREE_SPACE = 80.0  # map units required to move in a direction
_MAX_STEPS_WITHOUT_HIT = 70  # of fighting a monster
_IGNORE_STEPS = 300  # for which the monster is ignored after that


class Fighter:
    """Combat controller: `command()`, called once per step, returns the command, or None while there is no target."""

    def __init__(self, senses: Senses, terrain: Terrain, rng: np.random.Generator):
        self._senses, self._terrain, self._rng = senses, terrain, rng
        self._step = 0
        self._enemy: int | None = None  # the game's number of the target
        self._ignored: dict[int, int] = {}  # ignored monsters, and until which step
        self._hits, self._last_hit = 0.0, 0  # so far, and the step of the last one
        self._delay = 0  # steps until the player reacts
        self._burst = 0  # steps left of firing; below 0, steps since
        self._dodge, self._dodge_left = "", 0  # the side, and for how many steps
        self._switching = 0  # steps until the weapon may be changed again

    def command(self) -> Command | None:
        """Returns the command of this step, or None."""
        self._step += 1
        self._enemy = self._choose()
        enemy = next((enemy for enemy in self._senses.enemies if enemy.number == self._enemy), None)
        self._delay -= 1
        if enemy is None or self._delay > 0:
            return None
        return Command(enemy.position + _CHEST, self._approach(enemy), self._keys(enemy), tolerance=2.0)

    def _choose(self) -> int | None:
        """Returns the current target while it is in sight and is being hit, else the nearest noticed monster."""
        if self._senses.info["hits"] != self._hits or self._enemy is None:
            self._hits, self._last_hit = self._senses.info["hits"], self._step
        if self._enemy is not None and self._step - self._last_hit > _MAX_STEPS_WITHOUT_HIT:
            self._ignored[self._enemy] = self._step + _IGNORE_STEPS
        enemies = [enemy for enemy in self._senses.enemies if self._ignored.get(enemy.number, 0) < self._step]
        if any(enemy.number == self._enemy for enemy in enemies):
            return self._enemy
        noticed = [enemy.number for enemy in enemies if self._notices(enemy)]
        if self._enemy is None:
            self._delay = int(self._rng.integers(3, 8))
        return noticed[0] if noticed else None

    def _notices(self, enemy: Thing) -> bool:
        in_view = bool(abs(self._senses.bearing(enemy.position[:2])) < HALF_VIEW)
        return self._senses.distance(enemy.position) < _HEARING_RANGE or (in_view and self._weapon_for(_FAR) != _FISTS)

    def _keys(self, enemy: Thing) -> frozenset[str]:
        """Returns the keys: fire in bursts when the aim is good, dodge sideways, step back, change the weapon."""
        distance = self._senses.distance(enemy.position)
        fists = self._weapon_for(distance) == _FISTS
        aims = abs(self._senses.bearing(enemy.position[:2])) < 2 + np.degrees(np.arctan2(20, distance))
        keys = {self._sidestep(), self._draw_weapon(distance)} - {""}
        if aims and (distance < 96 or not fists) and self._fires():
            keys.add("attack")
        if distance < 140 and not fists and self._has_space(180):
            keys.add("back")
        return frozenset(keys)

    def _fires(self) -> bool:
        self._burst -= 1
        if self._burst < -self._rng.integers(4, 10):
            self._burst = int(self._rng.integers(8, 30))
        return self._burst >= 0

    def _sidestep(self) -> str:
        """Returns the key to dodge with, or ""."""
        sides = [side for side, bearing in _SIDESTEPS.items() if self._has_space(bearing)]
        self._dodge_left -= 1
        if self._dodge_left < 0:
            self._dodge = str(self._rng.choice([*sides, ""]))
            self._dodge_left = int(self._rng.integers(8, 22))
        return self._dodge if self._dodge in sides else ""

    def _draw_weapon(self, distance: float) -> str:
        """Returns the key of a better weapon than the current one, or ""."""
        self._switching -= 1
        slot = self._weapon_for(distance)
        if slot == self._senses.info["weapon"] or self._switching > 0:
            return ""
        self._switching = 30  # changing weapons takes the game more than a second
        return f"hotbar.{slot}"

    def _weapon_for(self, distance: float) -> int:
        """Returns the slot of the best weapon that has ammunition."""
        info, slots = self._senses.info, _NEAR_WEAPONS if distance < _FAR else _FAR_WEAPONS
        return next((slot for slot in slots if info[f"weapon.{slot}"] and info[f"ammo.{slot}"]), _FISTS)

    def _approach(self, enemy: Thing) -> Float[np.ndarray, "2"] | None:
        """Returns the monster's position, if it should be nearer and there is space to walk."""
        distance = self._senses.distance(enemy.position)
        near = 40 if self._weapon_for(distance) == _FISTS else 350
        return enemy.position[:2] if distance > near and self._has_space(0) else None

    def _has_space(self, bearing: float) -> bool:
        """True if there is space for some steps in a direction, in degrees to the left of the view."""
        angle = np.radians(self._senses.info["angle"] + bearing)
        destination = self._senses.position + _FREE_SPACE * np.array([np.cos(angle), np.sin(angle)])
        return bool(self._terrain.can_walk(self._senses.position, destination)[0])
