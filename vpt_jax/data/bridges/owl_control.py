"""Bridge from OWL Control, a recorder for Windows: a folder per session with a video, inputs.csv and metadata.json.

The table has the header `timestamp,event_type,event_args`: Unix time in seconds as a decimal number, a type, and JSON
arguments, which newer recorders write in quotes. The video begins at the last START among the first rows (as their own
reader has it). Mouse buttons and keys have Windows virtual-key codes. Gamepads are not read; a remark counts their
events.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vpt_jax.data.bridges.event_list import EventList
from vpt_jax.data.bridges.facts import read_json_object
from vpt_jax.data.bridges.interface import MAX_EVENTS, Bridge, BridgeOptions, InputEvents, TimedPlay
from vpt_jax.data.bridges.key_names import MOUSE_WHEEL, MOUSE_X, MOUSE_Y, virtual_key
from vpt_jax.data.bridges.videos import timed_frames
from vpt_jax.recording import MAX_COUNTS, BrokenRecordingError
from vpt_jax.system.printable import printable
from vpt_jax.video_files import is_video

INPUTS, METADATA = "inputs.csv", "metadata.json"
MAX_LINE = 1000  # bytes; the recorder's have 60
START_ROWS = 100  # rows among which the last START counts
_HEADER = "timestamp,event_type,event_args"
_GAMEPAD = ("GAMEPAD_BUTTON", "GAMEPAD_BUTTON_VALUE", "GAMEPAD_AXIS")
_ARGUMENTS: Mapping[str, tuple[Any, ...]] = {
    "MOUSE_MOVE": (int, int),
    "MOUSE_BUTTON": (int, bool),
    "SCROLL": (int,),
    "KEYBOARD": (int, bool),
}


class _Row(NamedTuple):
    time: float
    event: str
    arguments: list[Any]


def find(folder: Path) -> list[Path]:
    """Folders of all sessions: the subfolders that have inputs or metadata."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir() and any((path / name).exists() for name in (INPUTS, METADATA))
    )


def files(session: Path) -> list[Path]:
    """Video, inputs and metadata of a session, as far as they exist."""
    return [*_videos(session), *(path for name in (INPUTS, METADATA) if (path := session / name).exists())]


def read(session: Path, options: BridgeOptions) -> Mapping[str, TimedPlay]:
    """Reads a session; its name is that of its folder."""
    if len(videos := _videos(session)) != 1:
        detail = f"there are {len(videos)} videos" if videos else "there is no video"
        raise BrokenRecordingError(session / "video.mp4", "missing video", detail)
    metadata = read_json_object(session / METADATA) if (session / METADATA).exists() else {}
    events, start, remarks = _events(session / INPUTS)
    names = {"session_id": "session", "game_exe": "game", "hardware_id": "player"}
    facts = {ours: metadata[name] for name, ours in names.items() if isinstance(metadata.get(name), str)}
    return {session.name: TimedPlay(events, timed_frames(videos[0], start), facts=facts, remarks=tuple(remarks))}


def _videos(session: Path) -> list[Path]:
    return sorted(path for path in session.iterdir() if is_video(path))


def _events(inputs: Path) -> tuple[InputEvents, float, list[str]]:
    """Events on the clock of the table, the time of the video's first frame, and remarks."""
    events, ignored, starts = EventList(inputs), Counter[str](), []
    first = None
    for number, row in enumerate(_rows(inputs)):
        first = row.time if first is None else first
        if row.event == "START" and number < START_ROWS:
            starts.append(row.time)
        elif row.event == "MOUSE_MOVE":
            for name, value in zip((MOUSE_X, MOUSE_Y), row.arguments, strict=True):
                if value:
                    events.move(row.time, name, value)
        elif row.event in ("MOUSE_BUTTON", "KEYBOARD"):
            events.key(row.time, virtual_key(row.arguments[0]), row.arguments[1])
        elif row.event == "SCROLL":
            events.move(row.time, MOUSE_WHEEL, row.arguments[0])
        elif row.event in _GAMEPAD:
            ignored["events of a gamepad are not read"] += 1
        elif row.event not in ("START", "END"):
            ignored[f"events of type {printable(row.event, length=40)} are not read"] += 1
    if not starts:
        ignored["START is missing: the video is taken to begin with the first row"] += 1
    start = starts[-1] if starts else first or 0.0
    # Unix time in float64 has a resolution of a quarter of a microsecond, and differences are exact.
    remarks = [f"{count:,} {problem}" if "START" not in problem else problem for problem, count in ignored.items()]
    return events.to_events(origin=start), 0.0, remarks


def _rows(inputs: Path) -> Iterator[_Row]:
    """Rows of the table, whose JSON is quoted or not."""
    if not inputs.is_file():  # opening a named pipe would block
        raise BrokenRecordingError(inputs, "missing actions", "there is no such file")
    with inputs.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
            if len(line) > MAX_LINE or number > MAX_EVENTS:
                detail = f"line {number}: longer than {MAX_LINE} bytes, or more than {MAX_EVENTS:,} lines"
                raise BrokenRecordingError(inputs, "absurd size", detail)
            text = line.decode("utf-8", "replace").strip()
            if text and text != _HEADER:
                yield _row(inputs, number, text)


def _row(inputs: Path, number: int, text: str) -> _Row:
    def broken(reason: str, detail: str) -> BrokenRecordingError:
        return BrokenRecordingError(inputs, reason, f"line {number}: {printable(detail, length=200)}")

    parts = text.split(",", 2)
    if len(parts) != 3:
        raise broken("missing field", f"it must have {_HEADER}, and is {text}")
    if (arguments := parts[2]).startswith('"') and arguments.endswith('"') and len(arguments) > 1:
        arguments = arguments[1:-1].replace('""', '"')
    try:
        time, values = float(parts[0]), json.loads(arguments)
    except (ValueError, RecursionError) as error:
        raise broken("bad value", f"{text}: {error}") from error
    kinds = _ARGUMENTS.get(parts[1])
    if kinds is not None and not (isinstance(values, list) and tuple(map(type, values)) == kinds):
        wanted = ", ".join(kind.__name__ for kind in kinds)
        raise broken("bad value", f"the arguments of {parts[1]} must be [{wanted}], and are {arguments}")
    if kinds is not None and max(map(abs, values)) > MAX_COUNTS:
        raise broken("absurd size", f"the arguments of {parts[1]} go beyond {MAX_COUNTS}: {arguments}")
    return _Row(time, parts[1], values)


BRIDGE = Bridge(find, files, read)
