"""Integrity checks of downloaded files, from the first byte to the last: mp4 and jsonl.

Frames and lines are not counted here: `recording.read_frames` does, for whom one frame more than lines is normal.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vpt_jax.recording import MAX_LINE
from vpt_jax.video import VideoError, decode

ReadAt = Callable[[int, int], bytes]  # place, count: so many bytes from there, fewer at the end of the file
MAX_BOXES = 10_000  # at the top of an mp4; a fragmented one has two for each fragment
FIRST_BOXES = 20  # in which its index is looked for from afar


class Box(NamedTuple):
    """A box at the top of an mp4 (ISO/IEC 14496-12, 4.2)."""

    kind: bytes
    content: int  # place of its first byte after the header
    end: int


def mp4_problem(path: Path) -> str:
    """What is wrong with an mp4, or "": its boxes end where it ends, one is its index, its first frame decodes."""
    try:
        with path.open("rb") as file:
            kinds = [box.kind for box in boxes(_reader(file), path.stat().st_size)]
        if b"moov" not in kinds:
            return "it has no index (moov)"
        return "" if any(True for _ in decode(path)) else "it has no frames"
    except (ValueError, VideoError) as error:
        return str(error)


def boxes(read_at: ReadAt, size: int) -> Iterator[Box]:
    """The boxes at the top of an mp4. Raises ValueError where it is cut short, or no mp4."""
    place = 0
    for _ in range(MAX_BOXES):
        if place == size:
            return
        header = read_at(place, 16)
        length, content = int.from_bytes(header[:4], "big"), place + 8
        if length == 1:
            length, content = int.from_bytes(header[8:16], "big"), place + 16
        end = place + length if length else size
        kind = header[4:8]
        if not place and kind not in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
            raise ValueError("it is no mp4")
        if content > end or end > size:
            raise ValueError(f"it is cut short: a part of it ends at byte {end:,}, it at {size:,}")
        yield Box(kind, content, end)
        place = end
    raise ValueError(f"it has more than {MAX_BOXES:,} parts")


def movie_seconds(read_at: ReadAt, size: int) -> float:
    """The length of an mp4 by its header (mvhd); ValueError if it does not say. Reads a few hundred bytes of it."""
    index = next((box for box in islice(boxes(read_at, size), FIRST_BOXES) if box.kind == b"moov"), None)
    header = read_at(index.content, 40) if index else b""
    if header[4:8] != b"mvhd" or len(header) < 40:
        raise ValueError("it has no header (mvhd)")
    # After size, kind, version and flags: two times, ticks a second, ticks. Times and ticks have 8 bytes in version 1.
    wide = 8 if header[8] else 4
    scale = int.from_bytes(header[12 + 2 * wide : 16 + 2 * wide], "big")
    ticks = int.from_bytes(header[16 + 2 * wide : 16 + 3 * wide], "big")
    if not (scale and ticks):
        raise ValueError("its header gives no length")
    return ticks / scale


def _reader(file) -> ReadAt:
    def read_at(place: int, count: int) -> bytes:
        file.seek(place)
        return file.read(count)

    return read_at


def jsonl_problem(path: Path) -> str:
    """What is wrong with a .jsonl, or "": its first and its last line are JSON objects.

    An object that is cut short is none, so this shows if the last line is whole; a newline after it is not asked for.
    """
    with path.open("rb") as file:
        first = file.readline(MAX_LINE + 1)
        file.seek(-min(path.stat().st_size, MAX_LINE + 2), 2)
        last = file.read().rstrip()
    for which, line in (("first", first), ("last", last[last.rfind(b"\n") + 1 :])):
        if not line.strip():
            return f"its {which} line is empty"
        try:
            if not isinstance(json.loads(line), dict):
                return f"its {which} line is no JSON object"
        except (ValueError, RecursionError):
            return f"its {which} line is no JSON (cut short?)"
    return ""
