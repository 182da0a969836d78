"""Actions of the human interface at 20 Hz from Doom's commands at 35 Hz: a step joins 2, 2, 2 and 1 tics, as DoomEnv.

Turns are summed, keys are joined. Doom knows no pitch. A key held during part of a step is held in the step.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int8, UInt8

TICS_PER_STEP = (2, 2, 2, 1)  # as DoomEnv's
DEGREES_PER_TURN = 360 / 256
FORWARD, SIDE, TURN = 0, 1, 2
# Half of a walk and the middle between walk and run: a mouse adds a few units to what the keys give.
_HELD, _RUNS = (12.5, 12.0), (37.5, 32.0)
_ATTACK, _USE, _CHANGE, _SPECIAL = 1, 2, 4, 128
_PAUSE = 1  # of the special commands
_CHAINSAW, _CHAINSAW_KEY = 7, 1


def step_bounds(first: int, end: int) -> Int[np.ndarray, "steps 2"]:
    """Returns the [start, end) tics of every complete step from tic `first` on, before tic `end`."""
    tics = np.resize(np.array(TICS_PER_STEP), max(0, end - first))
    ends = first + np.cumsum(tics)
    return np.stack([ends - tics, ends], 1)[ends <= end]


def paused(buttons: UInt8[np.ndarray, "tics players"]) -> Bool[np.ndarray, " tics"]:
    """Returns in which tics the game is paused, by any player's command."""
    toggles = ((buttons & _SPECIAL) > 0) & ((buttons & 3) == _PAUSE)
    return np.cumsum(toggles.sum(1)) % 2 > 0


def action_of(
    moves: Int8[np.ndarray, "tics 3"], buttons: UInt8[np.ndarray, " tics"], dead: Bool[np.ndarray, " tics"]
) -> dict[str, Any]:
    """Returns the action of one step, of the game dict (`MINERL.env_keys`); keys that are up are left out.

    Args:
        moves: one player's commands of the step's tics.
        buttons: the same.
        dead: a dead player's keys do nothing, except for `use`, which starts the level again.
    """
    alive = ~dead
    held = buttons * ((buttons & _SPECIAL) == 0)  # special commands (pause, save) are no buttons
    moves = moves.astype(int) * alive[:, None]
    action: dict[str, Any] = {"camera": (0.0, -float(moves[:, TURN].sum()) * DEGREES_PER_TURN)}
    keys = {"use": (held & _USE).any(), "attack": (held[alive] & _ATTACK).any()}
    keys |= _direction(moves[:, FORWARD], _HELD[FORWARD], "forward", "back")
    keys |= _direction(moves[:, SIDE], _HELD[SIDE], "right", "left")
    runs = [(np.abs(moves[:, axis]) > _RUNS[axis]).any() for axis in (FORWARD, SIDE)]
    keys |= {"sprint": any(runs)} | _weapon_key(held[alive])
    return action | {name: 1 for name, is_held in keys.items() if is_held}


def _direction(move: Int[np.ndarray, " tics"], least: float, positive: str, negative: str) -> dict[str, bool]:
    held = bool((np.abs(move) > least).any())
    return {positive: held and move.sum() > 0, negative: held and move.sum() < 0}


def _weapon_key(buttons: UInt8[np.ndarray, " tics"]) -> dict[str, bool]:
    """The number key of the last weapon change; the chainsaw has the key of the fist, as in ViZDoom."""
    changes = buttons[(buttons & _CHANGE) > 0]
    if not len(changes):
        return {}
    weapon = int(changes[-1]) >> 3 & 7
    return {f"hotbar.{_CHAINSAW_KEY if weapon == _CHAINSAW else weapon + 1}": True}
