"""Trace of a replayed demo: where every player is in every tic, as dsda-doom exports it ("ghost" files).

The file holds two integers, version and number of players, then a record of nine integers per player and tic. Record
`i` is the state after the commands of tic `i`; the last tic has none.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt32

from vpt_jax.envs.doom.demos import DemoError
from vpt_jax.envs.doom.demos.lump import TURN_UNIT, Demo

_VERSION = 2
_FIELDS = ("x", "y", "z", "angle", "sprite", "frame", "map", "episode", "tic")
_RECORD = np.dtype([(name, "<u4" if name == "angle" else "<i4") for name in _FIELDS])
_FRAME_BITS, _FIRST_DEATH_FRAME = 0x7FFF, 7  # player sprites: A to D walk, E and F attack, G in pain, from H on dying


class Trace(NamedTuple):
    """State of all players after every tic of the first level, until it is left or the demo ends."""

    angle: UInt32[np.ndarray, "tics players"]  # 2**32 are a whole turn, counter-clockwise
    dead: Bool[np.ndarray, "tics players"]


def read_trace(data: bytes, demo: Demo, source: str) -> Trace:
    """Read a ghost file. Raises a DemoError if it does not fit the demo."""
    players, header = len(demo.players), np.frombuffer(data[:8], "<i4")
    if list(header) != [_VERSION, players]:
        raise DemoError(f"dsda-doom's trace of {source} begins with {list(header)}, not {[_VERSION, players]}")
    tics = min((len(data) - 8) // (_RECORD.itemsize * players), len(demo.moves))
    records = np.frombuffer(data, _RECORD, tics * players, 8).reshape(tics, players)
    records = records[: _end_of_level(records, demo)]
    return Trace(
        angle=records["angle"],
        dead=(records["frame"] & _FRAME_BITS) >= _FIRST_DEATH_FRAME,
    )


def turned_as_commanded(trace: Trace, demo: Demo, player: int) -> float:
    """Returns the share of the tics with a turn, while the player lives, in which the view turned by exactly that."""
    angle = trace.angle[:, player].astype(np.int64)
    turned = (np.diff(angle) + 2**31) % 2**32 - 2**31
    commanded = demo.moves[1 : len(angle), player, 2].astype(np.int64) * TURN_UNIT
    rows = (commanded != 0) & ~trace.dead[:-1, player]
    return float((turned[rows] == commanded[rows]).mean()) if rows.any() else 1.0


def _end_of_level(records: np.ndarray, demo: Demo) -> int:
    """Number of records until the players have left the level: after that (statistics, next level) nothing moves."""
    elsewhere = (records["map"] != demo.map) | (records["episode"] != demo.episode)
    stop = int(elsewhere.any(1).argmax()) if elsewhere.any() else len(records)
    state = np.stack([records[name].astype(np.int64) for name in _FIELDS[:6]], -1)[:stop]
    moved = np.flatnonzero((state[1:] != state[:-1]).any((1, 2)))
    return int(moved[-1]) + 2 if len(moved) else min(stop, 1)
