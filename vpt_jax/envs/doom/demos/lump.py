"""Reader of demo lumps in the format of Doom 1.9: a header, then the commands of every player in every tic.

A demo holds what the players did, not what they saw: an engine plays the same game again. Layout (bytes):

    0 version (109)    1 skill (0 to 4)    2 episode       3 map
    4 deathmatch       5 respawn           6 fast          7 nomonsters
    8 player whose view is shown           9 to 12 who plays, of four players

Each tic of 1/35 s has four bytes per player who plays: forward and sideways move, turn (all signed), buttons. The byte
0x80 in place of a forward move ends the demo; what follows it (notes of source ports) is not read.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int8, UInt8

from vpt_jax.envs.doom.demos import DemoError

VERSION = 109
TICS_PER_SECOND = 35
TURN_UNIT = 2**24  # of a turn command, where 2**32 are a whole turn
HEADER_BYTES = 13
MAX_TICS = 12 * 3600 * TICS_PER_SECOND
MAX_BYTES = HEADER_BYTES + 4 * 4 * MAX_TICS + 2**20  # with notes at its end
_VIEW, _PLAYERS, _END = 8, 9, 0x80
_OTHER_VERSIONS = dict.fromkeys((110, 111), "a demo with turns of 16 bits")
_OTHER_VERSIONS |= dict.fromkeys(range(200, 256), "a Boom demo or one of a later engine")


class Demo(NamedTuple):
    """A game of one to four players. `moves` has forward and sideways move and turn, each positive to the front, right
    and left: forward 25 or 50 (running), sideways 24 or 40, turn in 360/256 degrees.
    """

    skill: int  # 1 to 5
    episode: int
    map: int
    view: int  # the player whose view it was recorded with, 0 to 3
    players: tuple[int, ...]  # who plays, from 0
    moves: Int8[np.ndarray, "tics players 3"]
    buttons: UInt8[np.ndarray, "tics players"]  # bit 0 attack, 1 use, 2 change to the weapon in bits 3 to 5
    data: bytes  # the demo up to its end mark

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return len(self.moves) / TICS_PER_SECOND


def read_demo(data: bytes, source: str) -> Demo:
    """Read a demo lump.

    Args:
        data: the lump, or the content of an .lmp file.
        source: its name in errors.

    Raises:
        DemoError: another format, an impossible header, no commands, or no end mark (cut short).
    """
    if len(data) < HEADER_BYTES + 1:
        raise DemoError(f"{source} is not a Doom demo: it has {len(data)} bytes, less than a header")
    if len(data) > MAX_BYTES:
        raise DemoError(f"{source} has {len(data):,} bytes; demos of up to {MAX_BYTES:,} are read")
    _check_header(data, source)
    players = tuple(number for number in range(4) if data[_PLAYERS + number])
    commands = _commands(np.frombuffer(data, np.uint8)[HEADER_BYTES:], len(players), source)
    return Demo(
        skill=data[1] + 1,
        episode=data[2],
        map=data[3],
        view=data[_VIEW],
        players=players,
        moves=commands[..., :3].view(np.int8),
        buttons=commands[..., 3],
        data=data[: HEADER_BYTES + commands.size + 1],
    )


def with_view(demo: Demo, player: int) -> bytes:
    """Returns the demo's bytes for the view of another player; the game is the same.

    Raises:
        ValueError: the player does not play in it.
    """
    if player not in demo.players:
        raise ValueError(f"player {player} does not play in a demo of the players {demo.players}")
    return demo.data[:_VIEW] + bytes([player]) + demo.data[_VIEW + 1 :]


def _check_header(data: bytes, source: str) -> None:
    version, skill, episode, map_number, deathmatch = data[:5]
    if version != VERSION:
        kind = _OTHER_VERSIONS.get(version, "no demo, or one of an old version of the game")
        raise DemoError(f"{source} is of version {version} ({kind}); only version {VERSION}, Doom 1.9, is read")
    limits = {"skill": (skill, 0, 4), "episode": (episode, 1, 9), "map": (map_number, 1, 99)}
    limits |= {"deathmatch": (deathmatch, 0, 2), "view": (data[_VIEW], 0, 3)}
    for name, (value, low, high) in limits.items():
        if not low <= value <= high:
            raise DemoError(f"{source} is damaged: its {name} is {value}, not one from {low} to {high}")
    playing = [bool(flag) for flag in data[_PLAYERS:HEADER_BYTES]]
    if not playing[data[_VIEW]]:
        raise DemoError(f"{source} is damaged: its view is that of player {data[_VIEW]}, who does not play")
    if playing != sorted(playing, reverse=True):
        raise DemoError(f"{source} leaves out a player before another one, which dsda-doom's trace does not follow")


def _commands(body: UInt8[np.ndarray, " bytes"], players: int, source: str) -> UInt8[np.ndarray, "tics _players 4"]:
    """The commands up to the first end mark in the place of a tic's first byte."""
    ends = np.flatnonzero(body[:: 4 * players] == _END)
    if not len(ends):
        raise DemoError(f"{source} has no end mark: it is cut short")
    if not 0 < ends[0] <= MAX_TICS:
        raise DemoError(f"{source} has {ends[0]:,} tics; demos of 1 to {MAX_TICS:,} are read")
    return body[: ends[0] * 4 * players].reshape(-1, players, 4)
