"""Integrity checks of downloaded mp4 and jsonl files: container structure, first frame, first and last line.

Frames and lines are not counted here: `recording.read_frames` does that, and accepts one frame more than lines.
"""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from vpt_jax.recording import MAX_LINE
from vpt_jax.video import VideoError, decode

ReadAt = Callable[[int, int], bytes]  # (offset, count) -> bytes, fewer than `count` at the end of the file
MAX_BOXES = 10_000  # top-level boxes of an mp4; a fragmented one has two for each fragment
MOOV_SEARCH_BOXES = 20  # top-level boxes among which a remote file's index (moov) is searched


class Box(NamedTuple):
    """A top-level box of an mp4 (ISO/IEC 14496-12, 4.2)."""

    box_type: bytes
    content: int  # offset of the first byte after the box header
    end: int  # offset of the first byte after the box


def mp4_problem(path: Path) -> str:
    """Checks an mp4 file: its boxes end at the end of the file, one is the index (moov), and the first frame decodes.

    Returns:
        A description of the problem; "" if there is none.
    """
    try:
        with path.open("rb") as file:
            box_types = [box.box_type for box in iter_boxes(_reader(file), path.stat().st_size)]
        if b"moov" not in box_types:
            return "it has no index (moov)"
        return "" if any(True for _ in decode(path)) else "it has no frames"
    except (ValueError, VideoError) as error:
        return str(error)


def iter_boxes(read_at: ReadAt, size: int) -> Iterator[Box]:
    """Yields the top-level boxes of an mp4 of `size` bytes. Raises ValueError if it is truncated or not an mp4."""
    offset = 0
    for _ in range(MAX_BOXES):
        if offset == size:
            return
        header = read_at(offset, 16)
        length, content = int.from_bytes(header[:4], "big"), offset + 8
        if length == 1:  # 64-bit size
            length, content = int.from_bytes(header[8:16], "big"), offset + 16
        end = offset + length if length else size
        box_type = header[4:8]
        if not offset and box_type not in (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip"):
            raise ValueError("it is not an mp4 file")
        if content > end or end > size:
            raise ValueError(f"it is truncated: a box ends at byte {end:,}, the file at {size:,}")
        yield Box(box_type, content, end)
        offset = end
    raise ValueError(f"it has more than {MAX_BOXES:,} boxes")


def mp4_duration(read_at: ReadAt, size: int) -> float:
    """Duration of an mp4 in seconds by its movie header (mvhd); reads a few hundred bytes of it.

    Raises:
        ValueError: the header is missing or states no duration.
    """
    moov = next((box for box in islice(iter_boxes(read_at, size), MOOV_SEARCH_BOXES) if box.box_type == b"moov"), None)
    header = read_at(moov.content, 40) if moov else b""
    if header[4:8] != b"mvhd" or len(header) < 40:
        raise ValueError("it has no movie header (mvhd)")
    # After size, type, version and flags: creation and modification time, timescale (ticks per second), duration in
    # ticks. Times and duration have 8 bytes in version 1, else 4.
    width = 8 if header[8] else 4
    timescale = int.from_bytes(header[12 + 2 * width : 16 + 2 * width], "big")
    ticks = int.from_bytes(header[16 + 2 * width : 16 + 3 * width], "big")
    if not (timescale and ticks):
        raise ValueError("its header states no duration")
    return ticks / timescale


def _reader(file) -> ReadAt:
    def read_at(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    return read_at


def jsonl_problem(path: Path) -> str:
    """Checks a .jsonl file: its first and its last line are JSON objects.

    A truncated object is not valid JSON, so a truncated last line is detected; a newline after it is not required.

    Returns:
        A description of the problem; "" if there is none.
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
                return f"its {which} line is not a JSON object"
        except (ValueError, RecursionError):
            return f"its {which} line is not valid JSON (truncated?)"
    return ""
