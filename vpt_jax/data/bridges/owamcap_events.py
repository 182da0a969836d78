"""Key and mouse events of an OWAMcap recording, and all else in its messages but the frames."""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vpt_jax.data.bridges.event_list import EventList
from vpt_jax.data.bridges.held_states import HeldState, KeyEvent, missing_events
from vpt_jax.data.bridges.interface import InputEvents
from vpt_jax.data.bridges.key_names import MOUSE_WHEEL, MOUSE_X, MOUSE_Y, virtual_key
from vpt_jax.data.bridges.mcap_file import MAX_RECORD, Attachment, Metadata, Record, parse_message
from vpt_jax.data.bridges.owamcap_screen import SCREEN, screen_time
from vpt_jax.data.bridges.owamcap_windows import ActiveWindow
from vpt_jax.recording import BrokenRecordingError

KEYBOARD, KEYBOARD_STATE, WINDOW = "keyboard", "keyboard/state", "window"
MOUSE, MOUSE_RAW, MOUSE_STATE = "mouse", "mouse/raw", "mouse/state"
TOPICS = frozenset({SCREEN, KEYBOARD, KEYBOARD_STATE, MOUSE, MOUSE_RAW, MOUSE_STATE, WINDOW})
DETAILS = "vpt_jax"  # metadata of files that this library writes (export_owamcap.py)
CAMERA, CONFIDENCE = "labels/camera.f32", "labels/confidence.f32"  # attachments of these

MAX_MESSAGE = 2**16  # bytes of a message that holds no frame
MAX_MESSAGES = 50_000_000
MAX_SNAPSHOTS = 1_000_000  # of the keys, of the buttons, of the window: a day of one a second has 86,400
MAX_HELD = 10_000_000  # keys in all snapshots together
MAX_PRESSES = 5_000_000  # messages of the keyboard, or presses of mouse buttons
MAX_TITLE = 200  # characters of a window's title that are kept
WHEEL_NOTCH = 120  # counts of the wheel per notch, as Windows has it
_BUTTONS = ("left", "right", "middle", "x1", "x2")  # in the order of the down and up bits of `button_flags`
_WHEEL_FLAG, _ABSOLUTE_FLAG, _ABSOLUTE_RANGE = 0x400, 0x1, 65_536
# In snapshots: mouse buttons, which "mouse/state" has, and Shift, Control and Alt of either side beside that of one.
_UNSPECIFIC = frozenset({1, 2, 4, 5, 6, 0x10, 0x11, 0x12})


@dataclass
class Collected:
    """Contents of a recording's messages; times in nanoseconds, those of movements in seconds from `base`."""

    path: Path
    base: int | None = None  # time of the first message: seconds since 1970 would be rounded to 0.2 microseconds
    screen_times: array = field(default_factory=lambda: array("q"))
    latest_frame: int = 0
    keys: list[KeyEvent] = field(default_factory=list)
    key_states: list[HeldState] = field(default_factory=list)
    raw_buttons: list[KeyEvent] = field(default_factory=list)
    raw_moves: EventList = field(init=False)
    clicks: list[KeyEvent] = field(default_factory=list)  # of topic "mouse", as the moves
    cursor_moves: EventList = field(init=False)
    button_states: list[HeldState] = field(default_factory=list)
    held: int = 0  # keys in all of `key_states`
    windows: list[ActiveWindow] = field(default_factory=list)
    details: dict[str, str] = field(default_factory=dict)
    camera: bytes | None = None
    size: tuple[int, int] | None = None  # of the screen, in pixels
    absolute: tuple[int, int] | None = None  # last position of a device that reports positions
    cursor: tuple[int, int] | None = None
    counts: Counter[str] = field(default_factory=Counter)  # of oddities

    def __post_init__(self) -> None:
        self.raw_moves, self.cursor_moves = EventList(self.path), EventList(self.path)

    def seconds(self, time: int) -> float:
        """Seconds from `base`."""
        return (time - (self.base or 0)) / 1e9

    @property
    def remarks(self) -> tuple[str, ...]:
        """Oddities in words."""
        return tuple(f"{count:,} {problem}" for problem, count in sorted(self.counts.items()))


def collect(path: Path, records: Iterable[Record]) -> Collected:
    """Goes through a recording once.

    Args:
        path: of the recording, for errors.
        records: of `read_mcap`.

    Raises:
        BrokenRecordingError: a message lacks a field or has an impossible value.
    """
    found = Collected(path)
    handlers: dict[str, Callable[[Collected, int, dict[str, Any]], None]] = {
        SCREEN: _on_screen, KEYBOARD: _on_key, KEYBOARD_STATE: _on_key_state, MOUSE_RAW: _on_raw_mouse,
        MOUSE: _on_mouse, MOUSE_STATE: _on_mouse_state, WINDOW: _on_window,
    }  # fmt: skip
    number = 0
    for record in records:
        if isinstance(record, Metadata):
            found.details |= record.values if record.name == DETAILS else {}
        elif isinstance(record, Attachment):
            found.camera = record.data if record.name == CAMERA else found.camera
        else:
            number += 1
            if number > MAX_MESSAGES or record.log_time >= 2**62:
                detail = f"message {number:,} at {record.log_time} ns; up to {MAX_MESSAGES:,} are read"
                raise BrokenRecordingError(path, "absurd size", detail)
            found.base = record.log_time if found.base is None else found.base
            fields = parse_message(path, record, MAX_RECORD if record.topic == SCREEN else MAX_MESSAGE)
            handlers[record.topic](found, record.log_time, fields)
            _check_sizes(found)
    return found


def _check_sizes(found: Collected) -> None:
    """Bounds what is held in memory: in a compressed file, millions of messages take a few MB."""
    snapshots = max(len(found.key_states), len(found.button_states), len(found.windows))
    presses = max(len(found.keys), len(found.raw_buttons), len(found.clicks))
    if snapshots > MAX_SNAPSHOTS or presses > MAX_PRESSES or found.held > MAX_HELD:
        detail = (
            f"{snapshots:,} snapshots of {found.held:,} held keys, {presses:,} presses; up to {MAX_SNAPSHOTS:,}, "
            f"{MAX_HELD:,} and {MAX_PRESSES:,} are read"
        )
        raise BrokenRecordingError(found.path, "absurd size", detail)


def merge(found: Collected, origin: int) -> InputEvents:
    """All events of a recording, each once, with those that snapshots show to be missing.

    Args:
        found: of a recording that has frames.
        origin: of the events' times, in nanoseconds.
    """
    start = min(found.screen_times)
    raw = bool(found.raw_buttons or len(found.raw_moves))
    buttons = found.raw_buttons if raw else found.clicks
    events = found.raw_moves if raw else found.cursor_moves
    if not raw and len(events):
        found.counts["mouse movements are of the cursor: they end where it meets the edge of the screen"] = len(events)
    for pressed, states in ((found.keys, found.key_states), (buttons, found.button_states)):
        added = missing_events(pressed, states, start)
        if added:
            found.counts["presses and releases are missing, and taken from the snapshots of held keys"] += len(added)
        for time, name, down in (*added, *pressed):
            events.key(found.seconds(time), name, down)
    merged = events.to_events(found.seconds(origin))
    return _as_labelled(found, merged, origin) if found.details else merged


def _as_labelled(found: Collected, events: InputEvents, origin: int) -> InputEvents:
    """Events of a file that this library has written, by the names of its action space, with exact movements."""
    keys, axes = (_json_texts(found, name) for name in ("keys", "axes"))
    space_key = {bound: name for name, bound in keys.items()}
    renamed = EventList(found.path)
    for time, code, value in zip(events.time.tolist(), events.code.tolist(), events.value.tolist(), strict=True):
        name = events.names[code]
        if code < events.num_keys:
            renamed.key(time, space_key.get(name, name), value > 0)
        elif name not in axes.values():
            renamed.move(time, name, value)
    count = len(found.screen_times)
    if found.camera is None or len(found.camera) != 4 * count * len(axes):
        detail = f"attachment {CAMERA!r} does not hold {len(axes)} axes of {count:,} steps"
        raise BrokenRecordingError(found.path, "bad value", detail)
    camera = np.frombuffer(found.camera, "<f4").reshape(count, len(axes))
    for step, axis in zip(*np.nonzero(camera), strict=True):
        renamed.move((found.screen_times[step] - origin) / 1e9, list(axes)[axis], float(camera[step, axis]))
    return renamed.to_events()


def _json_texts(found: Collected, name: str) -> Mapping[str, str]:
    try:
        values = json.loads(found.details.get(name, ""))
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise BrokenRecordingError(found.path, "bad value", f"metadata {DETAILS!r}: `{name}` is not an object of texts")
    return values


def _on_screen(found: Collected, time: int, fields: dict[str, Any]) -> None:
    now = _as_time(found, screen_time(fields, time))
    if found.screen_times and now <= found.latest_frame:
        found.counts["frames are not later than the one before, and left out"] += 1
    found.latest_frame = max(now, found.latest_frame)
    found.screen_times.append(now)
    shape = fields.get("source_shape") or fields.get("shape")
    if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) and 0 < n < 10**5 for n in shape):
        found.size = shape[0], shape[1]


def _as_time(found: Collected, time: int) -> int:
    if not 0 <= time < 2**62:
        raise BrokenRecordingError(found.path, "bad value", f"topic {SCREEN!r}: `utc_ns` is {time}")
    return time


def _on_key(found: Collected, time: int, fields: dict[str, Any]) -> None:
    kind = fields.get("event_type")
    if kind not in ("press", "release"):
        raise _bad(found, KEYBOARD, time, "event_type", kind)
    found.keys.append((time, virtual_key(_integer(found, KEYBOARD, time, fields, "vk", 0, 255)), kind == "press"))


def _on_key_state(found: Collected, time: int, fields: dict[str, Any]) -> None:
    codes = fields.get("buttons")
    if not isinstance(codes, list) or not all(isinstance(code, int) and 0 <= code < 256 for code in codes):
        raise _bad(found, KEYBOARD_STATE, time, "buttons", codes)
    held = frozenset(virtual_key(code) for code in codes if code not in _UNSPECIFIC)
    found.held += len(held)
    found.key_states.append((time, held))


def _on_raw_mouse(found: Collected, time: int, fields: dict[str, Any]) -> None:
    x, y = (_integer(found, MOUSE_RAW, time, fields, name, -(2**31), 2**31) for name in ("last_x", "last_y"))
    usage, flags, data = (
        _integer(found, MOUSE_RAW, time, fields, name, -(2**31), 2**32, 0)
        for name in ("us_flags", "button_flags", "button_data")
    )
    if usage & _ABSOLUTE_FLAG:
        x, y = _difference(found, x, y)
    for name, value in ((MOUSE_X, x), (MOUSE_Y, y)):
        if value:
            found.raw_moves.move(found.seconds(time), name, value)
    for number, button in enumerate(_BUTTONS):
        for bit, down in ((2 * number, True), (2 * number + 1, False)):
            if flags >> bit & 1:
                found.raw_buttons.append((time, f"mouse.{button}", down))
    if flags & _WHEEL_FLAG:
        signed = (data + 2**15) % 2**16 - 2**15  # Windows stores 16 bits, with or without sign
        found.raw_moves.move(found.seconds(time), MOUSE_WHEEL, signed)


def _difference(found: Collected, x: int, y: int) -> tuple[int, int]:
    """Movement in pixels of a device that reports positions: a tablet, a virtual machine."""
    width, height = found.size or (0, 0)
    now = round(x * width / _ABSOLUTE_RANGE), round(y * height / _ABSOLUTE_RANGE)
    before, found.absolute = found.absolute, now if found.size else None
    found.counts["mouse events are positions, taken as differences"] += 1
    return (now[0] - before[0], now[1] - before[1]) if before else (0, 0)


def _on_mouse(found: Collected, time: int, fields: dict[str, Any]) -> None:
    kind = fields.get("event_type")
    if kind not in ("move", "click", "scroll"):
        raise _bad(found, MOUSE, time, "event_type", kind)
    x, y = (_integer(found, MOUSE, time, fields, name, -(2**31), 2**31) for name in ("x", "y"))
    before, found.cursor = found.cursor or (x, y), (x, y)
    for name, value in ((MOUSE_X, x - before[0]), (MOUSE_Y, y - before[1])):
        if value:
            found.cursor_moves.move(found.seconds(time), name, value)
    if kind == "scroll":
        notches = _integer(found, MOUSE, time, fields, "dy", -1000, 1000, 0)
        found.cursor_moves.move(found.seconds(time), MOUSE_WHEEL, WHEEL_NOTCH * notches)
    button, pressed = fields.get("button"), fields.get("pressed")
    if kind == "click" and button in _BUTTONS:
        if not isinstance(pressed, bool):
            raise _bad(found, MOUSE, time, "pressed", pressed)
        found.clicks.append((time, f"mouse.{button}", pressed))


def _on_mouse_state(found: Collected, time: int, fields: dict[str, Any]) -> None:
    buttons = fields.get("buttons")
    if not isinstance(buttons, list) or not all(isinstance(button, str) for button in buttons):
        raise _bad(found, MOUSE_STATE, time, "buttons", buttons)
    found.button_states.append((time, frozenset(f"mouse.{button}" for button in buttons if button in _BUTTONS)))


def _on_window(found: Collected, time: int, fields: dict[str, Any]) -> None:
    title = fields.get("title")
    if not isinstance(title, str):
        raise _bad(found, WINDOW, time, "title", title)
    handle = _integer(found, WINDOW, time, fields, "hWnd", -(2**63), 2**64, 0)
    found.windows.append(ActiveWindow(time, handle, title[:MAX_TITLE]))


def _integer(
    found: Collected, topic: str, time: int, fields: dict[str, Any], name: str, low: int, high: int, absent: Any = None
) -> int:
    """An integer field in [low, high]."""
    value = fields.get(name, absent)
    if value is None:
        raise BrokenRecordingError(found.path, "missing field", f"topic {topic!r} at {time} ns: `{name}`")
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise _bad(found, topic, time, name, value)
    return value


def _bad(found: Collected, topic: str, time: int, name: str, value: Any) -> BrokenRecordingError:
    detail = f"topic {topic!r} at {time} ns: `{name}` is {str(value)[:100]!r}"
    return BrokenRecordingError(found.path, "bad value", detail)
