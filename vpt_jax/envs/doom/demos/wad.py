"""Reader of WAD files' directories, and of the demo lumps in them. A WAD is a header, lumps, and their directory."""

import re
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vpt_jax.envs.doom.demos import DemoError
from vpt_jax.envs.doom.demos.lump import MAX_BYTES

MAX_LUMPS = 2**17
_HEADER, _ENTRY = struct.Struct("<4sii"), struct.Struct("<ii8s")
_DEMO = re.compile(r"DEMO\d{1,4}")
_LEVEL = re.compile(r"E\dM\d|MAP\d\d")


class Lump(NamedTuple):
    """A directory entry."""

    name: str
    offset: int
    size: int


class Wad(NamedTuple):
    """A WAD file: a whole game (IWAD) or an addition to one (PWAD), and its directory."""

    path: Path
    is_game: bool
    lumps: tuple[Lump, ...]

    @property
    def levels(self) -> frozenset[str]:
        """Names of its levels, such as E1M6 or MAP03."""
        return frozenset(lump.name for lump in self.lumps if _LEVEL.fullmatch(lump.name))


def read_wad(path: Path) -> Wad:
    """Read the directory of a WAD file.

    Raises:
        DemoError: there is no such file, it is not a WAD, or its directory does not fit into it.
    """
    with _open(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size or header[:4] not in (b"IWAD", b"PWAD"):
            raise DemoError(f"{path} is not a WAD file: it does not begin with IWAD or PWAD")
        kind, count, directory = _HEADER.unpack(header)
        if not 0 <= count <= MAX_LUMPS or not 0 <= directory <= size - count * _ENTRY.size:
            raise DemoError(f"{path} is damaged: {count} directory entries at byte {directory} of {size}")
        file.seek(directory)
        lumps = tuple(_lump(entry, size, path) for entry in _ENTRY.iter_unpack(file.read(count * _ENTRY.size)))
    return Wad(path, kind == b"IWAD", lumps)


def demo_lumps(wad: Wad) -> dict[str, bytes]:
    """Returns the demos of a WAD by lump name, DEMO1, DEMO2, ...; of a name that occurs twice, the last, as engines do.

    Raises:
        DemoError: a demo is too large, or directory entries overlap: each of thousands could be the whole file.
    """
    demos = {}
    lumps = [lump for lump in wad.lumps if _DEMO.fullmatch(lump.name)]
    with _open(wad.path) as file:
        if (total := sum(lump.size for lump in lumps)) > (size := file.seek(0, 2)):
            detail = f"its {len(lumps)} demos have {total:,} bytes, and the file {size:,}"
            raise DemoError(f"{wad.path} is damaged: {detail}")
        for lump in lumps:
            if lump.size > MAX_BYTES:
                raise DemoError(
                    f"{wad.path}: {lump.name} has {lump.size:,} bytes; demos of up to {MAX_BYTES:,} are read"
                )
            file.seek(lump.offset)
            demos[lump.name] = file.read(lump.size)
    return demos


def read_lmp(path: Path) -> bytes:
    """Returns the content of a file of one demo. Raises a DemoError if it is missing or too large."""
    with _open(path) as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise DemoError(f"{path} is larger than {MAX_BYTES:,} bytes, so it is no demo that can be read")
    return data


def _open(path: Path) -> BinaryIO:
    if not path.is_file():  # opening a pipe would block
        raise DemoError(f"{path} is not a file: give .lmp and .wad files")
    try:
        return path.open("rb")
    except OSError as error:
        raise DemoError(f"{path} cannot be read: {error}") from error


def _lump(entry: tuple[int, int, bytes], file_size: int, path: Path) -> Lump:
    offset, size, name = entry
    text = name.split(b"\0")[0].decode("ascii", errors="replace").upper()
    if size < 0 or (size and not 0 <= offset <= file_size - size):
        raise DemoError(f"{path} is damaged: the lump {text!a} of {size} bytes at byte {offset} is not inside the file")
    return Lump(text, offset, size)
