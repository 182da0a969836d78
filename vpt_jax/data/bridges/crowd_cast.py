"""Bridge from crowd-cast, a recorder for macOS and Windows: five-minute segments, each a video and a MessagePack file.

The MessagePack file is an array of `[microseconds since the video's start, [type, data]]`. Its name has the session and
segment number of the video's: the same stem, or one that differs in a first word such as `input_` and `recording_`.
While the context is `UNCAPTURED` or `UNKNOWN`, another program was in front: nothing there is trained on.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vpt_jax.data.bridges.event_list import EventList
from vpt_jax.data.bridges.interface import MAX_EVENTS, Bridge, BridgeOptions, TimedPlay
from vpt_jax.data.bridges.key_names import MOUSE_WHEEL, MOUSE_X, MOUSE_Y, web_key
from vpt_jax.data.bridges.videos import timed_frames
from vpt_jax.recording import BrokenRecordingError
from vpt_jax.system.errors import missing_package
from vpt_jax.system.printable import printable
from vpt_jax.video_files import is_video

SUFFIX = ".msgpack"
NOT_CAPTURED = ("UNCAPTURED", "UNKNOWN")
_MAX_BYTES = 2**20  # of one event
_MAX_ITEMS = 64  # of an array or map in one event
_WORD = re.compile(r"^(inputs?|events|keylogs?|recording|video)[_-]", re.IGNORECASE)
_SEGMENT = re.compile(r"[_-]?seg(ment)?[_-]?\d+$", re.IGNORECASE)
_BUTTONS = {"Left": "mouse.left", "Right": "mouse.right", "Middle": "mouse.middle"}
_NUMBER = (int, float)
_KEY = (int, str)
_CLICK = (object, _NUMBER, _NUMBER)
_DATA: Mapping[str, tuple[Any, ...]] = {
    "KeyPress": _KEY,
    "KeyRelease": _KEY,
    "MousePress": _CLICK,
    "MouseRelease": _CLICK,
    "MouseMove": (_NUMBER, _NUMBER),
    "MouseScroll": (_NUMBER,) * 4,
    "ContextChanged": (str,),
}


def find(folder: Path) -> list[Path]:
    """The MessagePack files of all segments in a folder, and videos that have none."""
    inputs = sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX)
    named = {_name(path) for path in inputs}
    return sorted([*inputs, *(path for path in folder.iterdir() if is_video(path) and _name(path) not in named)])


def files(recording: Path) -> list[Path]:
    """Events and video of a segment, as far as they exist."""
    return [path for path in dict.fromkeys([recording, *_videos(recording)]) if path.exists()]


def facts_file(recording: Path) -> Path:
    """Path of the facts of a segment: its name, without the first word of its files, and .json."""
    return recording.with_name(_name(recording) + ".json")


def read(recording: Path, options: BridgeOptions) -> Mapping[str, TimedPlay]:
    """Reads a segment; its name is that of its files without their first word."""
    name = _name(recording)
    if recording.suffix.lower() != SUFFIX:
        raise BrokenRecordingError(recording.with_name(name + SUFFIX), "missing actions", "there is no such file")
    if len(videos := _videos(recording)) != 1:
        detail = f"{len(videos)} videos are of this segment" if videos else "there is no video of this segment"
        raise BrokenRecordingError(recording, "missing video", detail)
    events, excluded, ignored = EventList(recording), _Uncaptured(), Counter[str]()
    for number, (time, kind, data) in enumerate(_read(recording)):
        if kind in _DATA:
            _check(recording, number, kind, data)
        if kind in ("KeyPress", "KeyRelease"):
            events.key(time, web_key(data[1]), kind == "KeyPress")
        elif kind in ("MousePress", "MouseRelease"):
            button = data[0] if isinstance(data[0], str) else str(next(iter(data[0].values()), ""))
            events.key(time, _BUTTONS.get(button, f"mouse.{button}"), kind == "MousePress")
        elif kind in ("MouseMove", "MouseScroll"):
            axes = (MOUSE_X, MOUSE_Y) if kind == "MouseMove" else ("mouse.wheel_x", MOUSE_WHEEL)
            for axis, value in zip(axes, data[:2], strict=True):
                if value:
                    events.move(time, axis, float(value))
        elif kind == "ContextChanged":
            excluded.change(time, data[0] in NOT_CAPTURED)
        elif kind != "Metadata":
            ignored[kind] += 1
    remarks = tuple(
        f"{count:,} events of type {printable(kind, length=40)} are not read" for kind, count in ignored.items()
    )
    facts = {"session": _SEGMENT.sub("", name) or name}
    return {name: TimedPlay(events.to_events(), timed_frames(videos[0]), excluded.ranges(), facts, remarks)}


class _Uncaptured:
    """Ranges in which no captured program was in front."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._ranges: list[tuple[float, float]] = []

    def change(self, time: float, away: bool) -> None:
        if away:
            self._since = time if self._since is None else self._since
        elif self._since is not None:
            self._ranges.append((self._since, time))
            self._since = None

    def ranges(self) -> tuple[tuple[float, float], ...]:
        return (*self._ranges, *([] if self._since is None else [(self._since, float("inf"))]))


def _name(path: Path) -> str:
    return _WORD.sub("", path.stem)


def _videos(recording: Path) -> list[Path]:
    wanted = _name(recording)
    near = [name for name in os.listdir(recording.parent) if wanted in name]  # fast, for folders of many segments
    return sorted(path for name in near if is_video(path := recording.parent / name) and _name(path) == wanted)


def _read(recording: Path) -> Iterator[tuple[float, str, Any]]:
    """Yields time in seconds, type and data of each event; holds one event at a time."""
    msgpack = _import_msgpack()
    if not recording.is_file():  # opening a named pipe would block
        raise BrokenRecordingError(recording, "missing actions", "there is no such file")
    limits = {f"max_{kind}_len": _MAX_ITEMS for kind in ("array", "map", "ext")}
    with recording.open("rb") as file:
        unpacker = msgpack.Unpacker(
            file, raw=False, max_buffer_size=_MAX_BYTES, max_str_len=1000, max_bin_len=1000, **limits
        )
        count = _unpack(recording, unpacker.read_array_header, 0)
        if count > MAX_EVENTS:
            raise BrokenRecordingError(
                recording, "absurd size", f"it states {count:,} events, more than {MAX_EVENTS:,}"
            )
        for number in range(count):
            event = _unpack(recording, unpacker.unpack, number)
            if not (isinstance(event, list) and len(event) == 2 and _is_number(event[0]) and _is_typed(event[1])):
                detail = f"event {number} is {printable(event, length=100)}, not [microseconds, [type, data]]"
                raise BrokenRecordingError(recording, "bad value", detail)
            yield event[0] / 1e6, event[1][0], event[1][1]


def _unpack(recording: Path, read_next: Callable[[], Any], number: int) -> Any:
    msgpack = _import_msgpack()
    try:
        return read_next()
    except msgpack.OutOfData as error:
        raise BrokenRecordingError(recording, "unreadable actions", f"it ends within event {number}") from error
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        detail = f"event {number} is no valid MessagePack: {printable(error, length=200)}"
        raise BrokenRecordingError(recording, "unreadable actions", detail) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool) and abs(value) < 1e18


def _is_typed(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _check(recording: Path, number: int, kind: str, data: Any) -> None:
    """Raises if the data of an event are not of its type."""
    wanted = _DATA[kind]
    valid = isinstance(data, list) and len(data) == len(wanted)
    for value, types in zip(data, wanted, strict=True) if valid else ():
        valid = valid and isinstance(value, types) and not (types is not object and isinstance(value, bool))
    if valid and kind in ("MousePress", "MouseRelease"):
        valid = isinstance(data[0], str) or (isinstance(data[0], dict) and bool(data[0]))
    if not valid:
        detail = f"event {number}: the data of {kind} are {printable(data, length=100)}"
        raise BrokenRecordingError(recording, "bad value", detail)


def _import_msgpack() -> Any:
    try:
        import msgpack
    except ImportError as error:
        raise missing_package("msgpack", "crowd_cast") from error
    return msgpack


BRIDGE = Bridge(find, files, read, facts=facts_file)
