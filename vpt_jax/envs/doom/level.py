"""Doom levels: their list, and their geometry, parsed from the WAD files of the game.

A WAD is a directory of named lumps. A level is a name followed by its lumps: LINEDEFS, SIDEDEFS, VERTEXES and SECTORS
in Doom's binary format (Freedoom), or one TEXTMAP in the Universal Doom Map Format (ViZDoom's scenarios).
"""

import re
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import vizdoom
from jaxtyping import Bool, Float, Int

_PACKAGE = Path(vizdoom.__file__).parent
_SCENARIOS = (
    "basic", "deadly_corridor", "deathmatch", "defend_the_center", "defend_the_line", "health_gathering",
    "health_gathering_supreme", "my_way_home", "predict_position", "rocket_basic", "simpler_basic", "take_cover",
)  # fmt: skip

# Doom's line specials (effects of lines when used or crossed), and sector specials (DAMAGING).
EXITS = (11, 51, 52, 124)
TELEPORTS = (39, 97, 125, 126)
DOORS = (1, 31, 117, 118)  # opened by hand, without a key
KEYED_DOORS = {26: "Blue", 32: "Blue", 27: "Yellow", 34: "Yellow", 28: "Red", 33: "Red"}
LIFTS = (62, 88, 120, 123)  # repeatable
SWITCHES = (
    7, 9, 14, 15, 18, 20, 21, 23, 29, 41, 42, 43, 45, 49, 50, 55, 60, 61, 63, 64, 65, 66, 67, 68, 69, 70, 71, 101, 102,
    103, 111, 112, 113, 114, 115, 116, 122, 127, 131, 132, 138, 139, 140,
)  # fmt: skip
DAMAGING = (4, 5, 7, 11, 16)


class LevelFile(NamedTuple):
    """Location of a level: the game's WAD, a scenario's WAD on top of it (or None), and its name in there."""

    game: Path
    scenario: Path | None
    name: str


LEVELS = (
    {f"E{e}M{n}": LevelFile(_PACKAGE / "freedoom1.wad", None, f"E{e}M{n}") for e in range(1, 5) for n in range(1, 10)}
    | {f"MAP{n:02}": LevelFile(_PACKAGE / "freedoom2.wad", None, f"MAP{n:02}") for n in range(1, 33)}
    | {name: LevelFile(_PACKAGE / "freedoom2.wad", _PACKAGE / f"scenarios/{name}.wad", "MAP01") for name in _SCENARIOS}
)


def level_file(level: str) -> LevelFile:
    """Returns the location of a level. Raises a ValueError that lists all levels if there is none of this name."""
    if level not in LEVELS:
        raise ValueError(f"no Doom level is called {level!r}; there are {', '.join(LEVELS)}")
    return LEVELS[level]


class Geometry(NamedTuple):
    """Lines and sectors of a level as it starts, in map units. Sector -1 is the void behind a wall.

    Specials are Doom's numbers; those of scenarios follow another numbering and are read as 0.
    """

    ends: Float[np.ndarray, "lines 2 2"]  # x, y of both ends
    sides: Int[np.ndarray, "lines 2"]  # the sectors on the right and on the left
    blocking: Bool[np.ndarray, " lines"]  # impassable, whatever the heights
    special: Int[np.ndarray, " lines"]  # effect of the line
    tag: Int[np.ndarray, " lines"]  # tag of the sectors that it affects
    floor: Float[np.ndarray, " sectors"]
    ceiling: Float[np.ndarray, " sectors"]
    sector_special: Int[np.ndarray, " sectors"]
    sector_tag: Int[np.ndarray, " sectors"]


@lru_cache(maxsize=4)
def read_geometry(level: str) -> Geometry:
    """Reads the geometry of a level from its WAD file."""
    place = level_file(level)
    lumps = dict(_lumps(place.scenario or place.game, place.name))
    return _from_text(lumps["TEXTMAP"].decode()) if "TEXTMAP" in lumps else _from_binary(lumps)


def _lumps(wad: Path, level: str) -> Iterator[tuple[str, bytes]]:
    """Yields name and content of the lumps of one level, at most ten."""
    with wad.open("rb") as file:
        count, directory = struct.unpack("<4xii", file.read(12))
        file.seek(directory)
        entries = [(name.rstrip(b"\0").decode("ascii"), offset, size)
                   for offset, size, name in struct.iter_unpack("<ii8s", file.read(16 * count))]  # fmt: skip
        first = [name for name, _, _ in entries].index(level) + 1
        for name, offset, size in entries[first : first + 10]:
            file.seek(offset)
            yield name, file.read(size)


def _from_binary(lumps: dict[str, bytes]) -> Geometry:
    vertices = np.frombuffer(lumps["VERTEXES"], "<i2").reshape(-1, 2).astype(float)
    start, end, flags, special, tag, *sides = np.frombuffer(lumps["LINEDEFS"], "<u2").reshape(-1, 7).astype(int).T
    side_sectors = np.frombuffer(lumps["SIDEDEFS"], "<i2").reshape(-1, 15)[:, 14].astype(int)  # its last field
    sectors = np.frombuffer(lumps["SECTORS"], "<i2").reshape(-1, 13).astype(int)  # heights, textures, 3 numbers
    return Geometry(
        ends=vertices[np.stack([start, end], 1)],
        sides=np.stack([np.where(side == 0xFFFF, -1, side_sectors[side % len(side_sectors)]) for side in sides], 1),
        blocking=(flags & 1) > 0,
        special=special,
        tag=tag,
        floor=sectors[:, 0].astype(float),
        ceiling=sectors[:, 1].astype(float),
        sector_special=sectors[:, 11],
        sector_tag=sectors[:, 12],
    )


def _from_text(text: str) -> Geometry:
    blocks: dict[str, list[dict[str, str]]] = {}
    for kind, body in re.findall(r"(\w+)\s*(?://[^\n]*)?\s*\{([^}]*)\}", text):
        blocks.setdefault(kind, []).append(dict(re.findall(r"(\w+)\s*=\s*([^;]+);", body)))

    def column(kind: str, key: str, default: float = 0) -> Float[np.ndarray, " blocks"]:
        return np.array([float(block.get(key, default)) for block in blocks[kind]])

    vertices = np.stack([column("vertex", "x"), column("vertex", "y")], 1)
    side_sectors = np.append(column("sidedef", "sector"), -1).astype(int)  # a line's missing side, -1, is the last
    lines, sectors = np.zeros(len(blocks["linedef"]), int), np.zeros(len(blocks["sector"]), int)
    return Geometry(
        ends=np.stack([vertices[column("linedef", key).astype(int)] for key in ("v1", "v2")], 1),
        sides=np.stack([side_sectors[column("linedef", key, -1).astype(int)] for key in ("sidefront", "sideback")], 1),
        blocking=np.array([line.get("blocking") == "true" for line in blocks["linedef"]]),
        special=lines,
        tag=lines,
        floor=column("sector", "heightfloor"),
        ceiling=column("sector", "heightceiling"),
        sector_special=sectors,
        sector_tag=sectors,
    )
