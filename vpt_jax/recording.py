"""Recordings in OpenAI's contractor format, NAME.mp4 and NAME.jsonl: reader with validation, and writer.

Line `i` of the .jsonl is the action that the player took after frame `i` of the .mp4. The fields that are read:

    {"mouse": {"x": 640.0, "y": 360.0, "dx": 3.0, "dy": -40.0, "buttons": [0], "newButtons": [0]},
     "keyboard": {"keys": ["key.keyboard.w"]}, "isGuiOpen": false, "hotbar": 2}

A record of this library may also have a `text`, the caption of its frame (data/captions.py).

Records do not contain the recorder's version: it is in the name of the file or folder (`contractor_names.py`). A video
may have one frame more than there are lines; that frame belongs to no step.

The reference reads this format in `data_loader.py`. Where this module differs, the docstring of the function states the
difference and the reason. One difference is general: the reference drops records with null actions; here every frame
keeps its step, and the data streams filter them.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import product
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from vpt_jax import contractor_names
from vpt_jax.actions.minerl import BUTTONS, DEGREES_PER_COUNT, ENV_KEYS, HOTBARS, PITCH, YAW
from vpt_jax.system.atomic_files import publish
from vpt_jax.system.errors import UserError
from vpt_jax.video import FRAME_RATE, VideoError, VideoWriter, decode, draw_cursor, resize

MAX_DEGREES = 180  # no player turns further in a twentieth of a second
MAX_LINE = 2**20  # bytes; a recorder's line has one or two thousand
MAX_STEPS = 24 * 3600 * FRAME_RATE  # a day
MAX_COUNTS = 32_767  # the maximum of a mouse report; no recorder writes a larger number
WINDOW_HEIGHT = 720  # pixels of the recorder's window, in which the mouse position is given
GUI_MOUSE_SCALE = {"5.7": 0.5, "5.8": 0.5, "6.7": 2.0, "6.8": 2.0, "6.9": 2.0}  # by recorder version; 1 for others
MOUSE_BUTTONS = ("attack", "use", "pickItem")  # 0, 1, 2
KEYS = {
    "key.keyboard.w": "forward",
    "key.keyboard.s": "back",
    "key.keyboard.a": "left",
    "key.keyboard.d": "right",
    "key.keyboard.space": "jump",
    "key.keyboard.left.shift": "sneak",
    "key.keyboard.left.control": "sprint",
    "key.keyboard.q": "drop",
    "key.keyboard.e": "inventory",
    "key.keyboard.f": "swapHands",
    "key.keyboard.escape": "ESC",
} | {f"key.keyboard.{slot}": name for slot, name in enumerate(HOTBARS, 1)}


class BrokenRecordingError(UserError):
    """A recording that cannot be used. `path` is the broken file, `detail` the position and the problem.

    `reason` is one of "missing actions", "unreadable actions", "missing video", "no records", "empty line", "bad json",
    "missing field", "bad value", "absurd mouse", "absurd size", "unreadable video", "unreadable name",
    "damaged video", "frame count"; of bridges also "whole seconds", "too short", "not in the mapping".
    """

    def __init__(self, path: Path, reason: str, detail: str):
        super().__init__(path, reason, detail)
        self.path, self.reason, self.detail = path, reason, detail

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}: {self.detail}"


class Steps(NamedTuple):
    """The `n` steps of a recording, one for each frame."""

    buttons: UInt8[np.ndarray, "n 20"]  # 1 while held
    camera: Float32[np.ndarray, "n 2"]  # (pitch, yaw) degrees
    gui_open: Bool[np.ndarray, " n"]  # inventory, chest, menu: the mouse moves a cursor
    cursor: Float32[np.ndarray, "n 2"]  # its (x, y) in pixels of a window 720 pixels high; 0 while no GUI is open


def find_recordings(folder: Path) -> list[Path]:
    """The recordings of a folder as sorted paths without suffix, including those whose .mp4 or .jsonl is missing."""
    return sorted({path.with_suffix("") for path in folder.iterdir() if path.suffix.lower() in (".mp4", ".jsonl")})


def recording_file(recording: Path, suffix: str) -> Path:
    """The file of a recording (a path without suffix) with this suffix in lower, upper or mixed case."""
    mixed = sorted(map("".join, product(*zip(suffix.lower(), suffix.upper(), strict=True))))
    files = [recording.with_name(recording.name + case) for case in (suffix, suffix.upper(), *mixed)]
    return next((file for file in files if file.exists()), files[0])


def read_steps(jsonl: Path, on_record: Callable[[int, dict[str, Any]], object] | None = None) -> Steps:
    """Read all steps of a recording. Holds one record at a time, and some hundred bytes per step.

    Args:
      jsonl: its path contains the recorder version, which determines the mouse scale in a GUI.
      on_record: called with the number of each step and its record, whose other fields may hold anything.

    Raises `BrokenRecordingError` for a missing or empty file, and for the first line that is not a complete and
    plausible record. Blank lines at the end are allowed (the reference fails on them).
    """
    attack, hotbar = _StuckAttack(), _Hotbar()
    version = contractor_names.recorder_version(jsonl)
    buttons, rows = [], []
    for number, record in enumerate(_read_records(jsonl)):
        gui_open = record.flag("isGuiOpen")
        held = hotbar.press_scrolled(record, attack.release(record, _held(record, gui_open)))
        buttons.append(bytes(name in held for name in BUTTONS))
        scale = GUI_MOUSE_SCALE.get(version or record.version, 1.0) if gui_open else 1.0
        rows.append((gui_open, *_camera(record, scale), *_cursor(record, gui_open)))
        if on_record:
            on_record(number, record.content)
    gui, pitch, yaw, x, y = (np.array(column, np.float32) for column in zip(*rows, strict=True))
    held_keys = np.frombuffer(b"".join(buttons), np.uint8).reshape(-1, len(BUTTONS))
    return Steps(held_keys, np.stack([pitch, yaw], 1), gui > 0, np.stack([x, y], 1))


def read_frames(mp4: Path, steps: Steps, height: int, width: int) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """The frames of a recording, one for each step, resized to `height` x `width`.

    Frame `i` belongs to step `i`, from the start. Videos of some recorders have one frame more than there are steps,
    which is dropped: MineStudio's conversion of OpenAI's data handles such pairs in the same way, and OpenAI's loader
    reads no frame after the last line.

    Where a GUI is open the mouse cursor, which recorders do not draw, is drawn before the resize, at the mouse position
    truncated to whole pixels.

    Differences from the reference:

    - It draws the cursor only in frames whose record is not a null action. The game draws it in all of them.
    - It fails on a position left of or above the frame; here the cursor is clipped there as at the other edges.
    - It skips a frame that it cannot read, and continues. Here any other mismatch is an error: a video one frame short
      may lack its first as well as its last frame, and frames shifted against their actions are wrong training data
      that nothing else would reveal.

    Raises:
      BrokenRecordingError: the video is missing, cannot be decoded ("unreadable video", "damaged video"), or has fewer
        frames than there are steps, or two or more too many ("frame count"). Most of these errors are
        detected only while frames are read: read all frames, and discard those read before an error.
    """
    if not mp4.is_file():
        raise BrokenRecordingError(mp4, "missing video", "there is no such file")
    count, expected = 0, len(steps.buttons)
    try:
        for frame in decode(mp4):
            count += 1
            if count > expected + 1:
                detail = f"{count} or more frames for the {expected} steps of the .jsonl; one more is allowed"
                raise BrokenRecordingError(mp4, "frame count", detail)
            if count > expected:
                continue  # the next iteration checks that it is the last one
            if steps.gui_open[count - 1]:
                x, y = steps.cursor[count - 1].astype(float) * len(frame) / WINDOW_HEIGHT
                draw_cursor(frame, int(x), int(y))
            yield resize(frame, height, width)
    except VideoError as error:
        raise BrokenRecordingError(mp4, error.reason, error.detail) from error
    if count < expected:
        raise BrokenRecordingError(mp4, "frame count", f"{count} frames for the {expected} steps of the .jsonl")


class RecordingWriter:
    """Writes one recording atomically: both files appear under their names only when they are complete.

        with RecordingWriter(folder / "episode_0", 360, 640) as recording:
            recording.write(frame, action)

    A recording exists when its .jsonl does. Leaving the block renames first the .mp4, then the .jsonl. An exception or
    a kill leaves no .jsonl; writing again under the same name then replaces the remaining files.

    Args:
      path: of the recording, without suffix; FileExistsError if it exists already.
      height, width: of every frame, even numbers; 360x640 or smaller, as recorders write.
    """

    def __init__(self, path: Path, height: int, width: int):
        self._jsonl = Path(f"{path}.jsonl")
        if self._jsonl.exists():
            raise FileExistsError(f"{self._jsonl} exists: remove it to record this episode again")
        self._video = VideoWriter(f"{path}.mp4", height, width)
        self._lines: list[str] = []
        self._buttons: list[int] = []

    def write(
        self,
        frame: UInt8[np.ndarray, "h w 3"],
        action: Mapping[str, Any],
        hotbar: int = 0,
        gui_open: bool = False,
        cursor: tuple[float, float] = (0.0, 0.0),
        text: str = "",
    ) -> None:
        """Append a frame and the action taken after it. ValueError, and nothing is appended, if one is invalid.

        Args:
          frame: without mouse cursor.
          action: of the 24-key game dict (`MINERL.env_keys`); absent keys are up, `camera` is in degrees.
          hotbar: the slot the game has selected, 0 to 8. A change without its key reads back as that key.
          gui_open: True if the mouse moves a cursor. `ESC` then reads back as `inventory`, else as no button.
          cursor: its (x, y) in pixels of a window 720 pixels high.
          text: caption of the frame, such as what the player is about to do; empty: none.
        """
        pitch, yaw = _checked_camera(action)
        if hotbar not in range(len(HOTBARS)):
            raise ValueError(f"the hotbar slot {hotbar} is not one from 0 to {len(HOTBARS) - 1}")
        if not np.abs(cursor).max() <= MAX_COUNTS:
            raise ValueError(f"the cursor {cursor} is nowhere near the window")
        buttons = [number for number, name in enumerate(MOUSE_BUTTONS) if action.get(name)]
        # What is down in the first record was not pressed there: `[0]` would mark the attack button as stuck.
        new_buttons = [number for number in buttons if self._lines and number not in self._buttons]
        record = {
            "mouse": {
                "x": float(cursor[0]),
                "y": float(cursor[1]),
                "dx": yaw / DEGREES_PER_COUNT,
                "dy": pitch / DEGREES_PER_COUNT,
                "buttons": buttons,
                "newButtons": new_buttons,
            },
            "keyboard": {"keys": [key for key, name in KEYS.items() if action.get(name)]},
            "isGuiOpen": bool(gui_open),
            "hotbar": int(hotbar),
            "tick": len(self._lines),
        } | ({"text": text} if text else {})
        self._video.write(frame)
        self._lines.append(json.dumps(record) + "\n")
        self._buttons = buttons

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._video.__exit__(kind, error, trace)
        if kind is not None:
            return
        partial = self._jsonl.with_name(self._jsonl.name + ".partial")
        try:
            partial.write_text("".join(self._lines))
            publish(partial, self._jsonl)
        finally:
            partial.unlink(missing_ok=True)


def _checked_camera(action: Mapping[str, Any]) -> tuple[float, float]:
    """Pitch and yaw of a game's action; ValueError if a key is unknown or the camera is not two plausible angles."""
    if unknown := set(action) - set(ENV_KEYS):
        raise ValueError(f"the action has unknown keys: {sorted(unknown)}; known are {', '.join(ENV_KEYS)}")
    camera = np.asarray(action.get("camera", (0, 0)), float)
    if camera.shape != (2,) or not (np.abs(camera) <= MAX_DEGREES).all():
        raise ValueError(f"the camera {camera} is not a pitch and a yaw of at most {MAX_DEGREES} degrees")
    return float(camera[PITCH]), float(camera[YAW])


class _Record:
    """One line of a .jsonl file. A missing field or invalid value raises `BrokenRecordingError`, which names it."""

    def __init__(self, path: Path, line: int, text: bytes):
        self._path, self._line = path, line
        try:
            self.content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._broken("bad json", f"{error} (cut short?)") from error
        if not isinstance(self.content, dict):
            raise self._broken("bad json", f"{_truncated(self.content)} is not an object")

    def value(self, field: str) -> Any:
        """The value at a dotted path of names, such as "mouse.dx"."""
        value = self.content
        for name in field.split("."):
            if not isinstance(value, dict) or name not in value:
                raise self._broken("missing field", f"there is no {field}")
            value = value[name]
        return value

    def flag(self, field: str) -> bool:
        value = self.value(field)
        if not isinstance(value, bool):
            raise self._broken("bad value", f"{field} is {_truncated(value)}, not true or false")
        return value

    def counts(self, field: str) -> float:
        """A movement or position of the mouse."""
        value = self.value(field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._broken("bad value", f"{field} is {_truncated(value)}, not a number")
        if not abs(value) <= MAX_COUNTS:  # NaN too
            raise self._broken("absurd mouse", f"{field} is {_truncated(value)}; no mouse goes beyond {MAX_COUNTS}")
        return float(value)

    def items(self, field: str, kind: type) -> list[Any]:
        """A list of strings or of integers."""
        value = self.value(field)
        if not isinstance(value, list) or any(type(item) is not kind for item in value):
            raise self._broken("bad value", f"{field} is {_truncated(value)}, not a list of {kind.__name__}")
        return value

    def slot(self) -> int | None:
        """The selected hotbar slot, 0 to 8; None where it is not recorded."""
        if "hotbar" not in self.content:
            return None
        slot = self.value("hotbar")
        if type(slot) is not int or not 0 <= slot < len(HOTBARS):
            raise self._broken("bad value", f"hotbar is {_truncated(slot)}, not a slot from 0 to {len(HOTBARS) - 1}")
        return slot

    @property
    def version(self) -> str:
        """The recorder version in the record, a field that OpenAI's recordings do not have."""
        return str(self.content.get("version"))

    def _broken(self, reason: str, detail: str) -> BrokenRecordingError:
        return BrokenRecordingError(self._path, reason, f"line {self._line}: {detail}")


def _truncated(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _read_records(jsonl: Path) -> Iterator[_Record]:
    blank = number = 0  # blank: the first of the blank lines since the last record
    for number, line in enumerate(_read_lines(jsonl), 1):
        if not line.strip():
            blank = blank or number
            continue
        if blank:
            raise BrokenRecordingError(jsonl, "empty line", f"line {blank}: every line must be a record")
        yield _Record(jsonl, number, line)
    if number == 0 or blank == 1:
        raise BrokenRecordingError(jsonl, "no records", "the file is empty")


def _read_lines(jsonl: Path) -> Iterator[bytes]:
    try:
        if not jsonl.is_file() and jsonl.exists():  # opening a pipe would block
            raise BrokenRecordingError(jsonl, "unreadable actions", "it is not a regular file")
        with jsonl.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
                if len(line) > MAX_LINE:
                    raise BrokenRecordingError(jsonl, "absurd size", f"line {number}: longer than {MAX_LINE:,} bytes")
                if number > MAX_STEPS:
                    raise BrokenRecordingError(jsonl, "absurd size", f"more than {MAX_STEPS:,} lines")
                yield line
    except FileNotFoundError as error:
        raise BrokenRecordingError(jsonl, "missing actions", "there is no such file") from error
    except OSError as error:
        raise BrokenRecordingError(jsonl, "unreadable actions", str(error)) from error


def _held(record: _Record, gui_open: bool) -> set[str]:
    """The buttons held in a record. Keys and mouse buttons without a function in the game are ignored.

    The reference keeps ESC as a key of its own, which the models cannot press. Here ESC with an open GUI is
    `inventory`, the key that closes one too, as in the paper's training (according to a comment in the
    reference). Without an open GUI it opens the game's menu, and is not a button.
    """
    held = {KEYS[key] for key in record.items("keyboard.keys", str) if key in KEYS}
    held |= {MOUSE_BUTTONS[i] for i in record.items("mouse.buttons", int) if i in range(len(MOUSE_BUTTONS))}
    return held | {"inventory"} if gui_open and "ESC" in held else held


class _StuckAttack:
    """Removes the attack button from steps in which the recorder reports it although it is not held (stuck button).

    The reference's rule: recorders can start with the button stuck, which is recorded as exactly `[0]` in the first
    record's `newButtons`, and lasts until a later record presses it again. A release alone does not end it. A player
    who really attacks in the first record loses that attack.
    """

    stuck: bool | None = None  # None: before the first record

    def release(self, record: _Record, held: set[str]) -> set[str]:
        """The buttons that are really held in the next record."""
        if self.stuck is None:
            self.stuck = record.items("mouse.newButtons", int) == [0]
        elif self.stuck:
            self.stuck = 0 not in record.items("mouse.newButtons", int)
        return held - {"attack"} if self.stuck else held


class _Hotbar:
    """Adds the number key of a hotbar slot that was selected without it (by the mouse wheel).

    Differences from the reference:

    - It drops the change when nothing else happens in the record. Here it counts as an action.
    - It starts from slot 0, so a recording that starts on another slot gets a false key press. Here the first record
      presses nothing.
    - It presses twice when the slot changes one record after its key. Here the key alone counts, held or just released.
    - It needs `hotbar` in every record. Here a record without it (recorders before 6.11) changes no slot.

    A key held while the slot changes to another one counts as well, as in the reference.
    """

    slot: int | None = None
    before: frozenset[str] | set[str] = frozenset()

    def press_scrolled(self, record: _Record, held: set[str]) -> set[str]:
        """The buttons held in the next record, with the slot's key if the slot was selected by scrolling."""
        last, now = self.slot, record.slot()
        if now is not None:
            self.slot = now
            if last is not None and now != last and HOTBARS[now] not in self.before:
                held = held | {HOTBARS[now]}
        self.before = held
        return held


def _camera(record: _Record, mouse_scale: float) -> tuple[float, float]:
    """Pitch and yaw of a step in degrees: pitch from the mouse's `dy`, yaw from `dx`, both times `mouse_scale`.

    Differences from the reference:

    - It truncates angles to whole degrees because its array holds integers: six counts or fewer are no movement. Here
      the fraction is kept.
    - It has a table of mouse scales by recorder version for open GUIs (`GUI_MOUSE_SCALE`), and never uses it. Here it
      is used, by the version in the recording's path.
    - It means to ignore turns of more than 180 degrees, but tests only where there is no turn. Here such an angle
      (and not the other axis) becomes 0: the window captured or released the mouse, the rest of the step is valid.
    """
    scale = DEGREES_PER_COUNT * mouse_scale
    angles = (record.counts("mouse.dy") * scale, record.counts("mouse.dx") * scale)
    pitch, yaw = (0.0 if abs(angle) > MAX_DEGREES else angle for angle in angles)
    return pitch, yaw


def _cursor(record: _Record, gui_open: bool) -> tuple[float, float]:
    """Mouse position (x, y); read only where a GUI is open, since otherwise the game has captured the mouse."""
    return (record.counts("mouse.x"), record.counts("mouse.y")) if gui_open else (0.0, 0.0)
