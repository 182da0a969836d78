"""Bridge from Open-P2P (Elefant AI): a folder per recording, `annotation.proto` beside a video at 20 frames per second.

The published dataset has `192x192.mp4`, its recorder Recap writes `video.mp4`. The message is described in
`p2p_schema.py`. Recap stores events with their own times, and these are what is read; the held keys of each frame then
correct them, where an event was lost. Older files have held keys and movement per frame only: the record of frame i is
what was done from frame i - 1 to it, as in Open-P2P's own trainer. What was done before the first frame is dropped.

Stretches in which a model played, or for which no action is known, are excluded.
"""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from google.protobuf.message import DecodeError

from vpt_jax.data.bridges.event_list import EventList
from vpt_jax.data.bridges.interface import Bridge, BridgeOptions, TimedPlay
from vpt_jax.data.bridges.key_names import KEYS, MOUSE_WHEEL, MOUSE_X, MOUSE_Y, RDEV_NAMES, mouse_button, web_key
from vpt_jax.data.bridges.p2p_schema import METADATA_FIELD, RECORD_FIELD, message
from vpt_jax.data.bridges.videos import numbered_frames
from vpt_jax.data.runs import find_runs
from vpt_jax.recording import MAX_COUNTS, MAX_STEPS, BrokenRecordingError
from vpt_jax.system.printable import printable

ACTIONS = "annotation.proto"
VIDEOS = ("192x192.mp4", "video.mp4")  # the first that exists; or else the only .mp4
RATE = 20  # frames per second, of files that state none
MAX_RECORD = 2**24  # bytes of one record; the longest have text embeddings of some hundred kilobytes
MAX_TEXT = 200  # characters of a name or description that becomes a fact

_NAMES = {"LeftWin": "left_meta", "RightWin": "right_meta", "GraveAccent": "grave"} | {
    name: f"keypad_{name.lower()}" for name in ("Add", "Subtract", "Multiply", "Divide", "Decimal")
}
_BUTTONS = {"left": "mouse.left", "right": "mouse.right", "middle": "mouse.middle"}


def find_recordings(folder: Path) -> list[Path]:
    """Folders below `folder` that hold an `annotation.proto`, sorted."""
    return sorted(Path(found) for found, _, files in os.walk(folder) if ACTIONS in files)


def recording_files(recording: Path) -> list[Path]:
    """The records, and all videos: which of them is read depends on the others."""
    return [path for path in (recording / ACTIONS, *sorted(recording.glob("*.mp4"))) if path.is_file()]


def recording_video(recording: Path) -> Path:
    """The video of a recording. Raises `BrokenRecordingError` if there is none, or several of other names."""
    for name in VIDEOS:
        if (recording / name).is_file():
            return recording / name
    videos = sorted(recording.glob("*.mp4"))
    if len(videos) != 1:
        detail = f"expected {' or '.join(VIDEOS)}, or one .mp4 of another name; there are {len(videos)}"
        raise BrokenRecordingError(recording, "missing video", detail)
    return videos[0]


def key_name(name: str) -> str:
    """Name of a key: "LeftShift" is "left_shift", "w" is "w"; one without a name here keeps its own, "key.VolumeUp"."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return _NAMES.get(name) or RDEV_NAMES.get(name) or (words if words in KEYS else web_key(name[:MAX_TEXT]))


def button_name(name: str) -> str:
    """Name of a mouse button: "0" or "Left" is "mouse.left", "1" or "Right" is "mouse.right"."""
    return _BUTTONS.get(name.lower()) or (mouse_button(int(name)) if re.fullmatch(r"\d{1,3}", name) else "mouse.other")


def read(recording: Path, options: BridgeOptions) -> Mapping[str, TimedPlay]:
    """Reads a recording; errors are `BrokenRecordingError` with the file, the reason and the number of the record."""
    path, video = recording / ACTIONS, recording_video(recording)
    actions = _Actions(path)
    try:
        with path.open("rb") as file:
            for field, content in _fields(file, path):
                if field == METADATA_FIELD:
                    actions.metadata = _parse(path, "Metadata", content, "its metadata")
                elif field == RECORD_FIELD:
                    actions.add(_parse(path, "Record", content, f"record {len(actions.stated)}"))
    except FileNotFoundError as error:
        raise BrokenRecordingError(path, "missing actions", "the recording has no such file") from error
    except OSError as error:
        raise BrokenRecordingError(path, "unreadable actions", str(error)) from error
    return {recording.name: actions.play(video)}


class _Actions:
    """Actions of a recording, collected from its records one after the other."""

    def __init__(self, path: Path):
        self.path, self.metadata = path, message("Metadata")()
        self.stated: list[float] = []  # time of each frame in seconds; 0 in old files
        self._timed, self._stepwise = EventList(path), EventList(path)  # the latter's times are numbers of frames
        self._timed_held: set[str] = set()
        self._held: set[str] = set()
        self._unknown: list[int] = []  # records without an action of the player
        self._events = self._corrected = self._texts = 0

    def add(self, record: Any) -> None:
        """Add the record of the next frame."""
        number, time = len(self.stated), record.time / 1e9
        if number >= MAX_STEPS:
            raise BrokenRecordingError(self.path, "absurd size", f"more than {MAX_STEPS:,} records")
        self.stated.append(time)
        self._texts += len(record.texts)
        held = _held(record.player) if record.player.known and not record.model.known else set()
        if number and not (record.player.known and not record.model.known):
            self._unknown.append(number)
        elif number:
            self._move(self._stepwise, number - 1, record.player.mouse.moved, record.player.mouse.scrolled)
        for name in sorted(held ^ self._held):
            self._stepwise.key(max(number - 1, 0), name, name in held)
        self._held = held
        for event in record.events if number else ():
            self._add_event(event)
        wrong = held ^ self._timed_held
        self._corrected += len(wrong) if number else 0
        for name in sorted(wrong):
            self._timed.key(time, name, name in held)
        self._timed_held = held

    def _add_event(self, event: Any) -> None:
        kind = next((kind for kind in ("button", "key", "scrolled", "moved") if event.HasField(kind)), None)
        if event.by_model or kind is None:
            return
        self._events += 1
        time = event.time / 1e9
        if kind in ("button", "key"):
            pressed = event.button if kind == "button" else event.key
            name = button_name(pressed.button) if kind == "button" else key_name(pressed.key)
            self._timed.key(time, name, pressed.pressed)
            self._timed_held ^= {name} if pressed.pressed != (name in self._timed_held) else set()
        else:
            self._move(self._timed, time, event.moved, event.scrolled)

    def _move(self, events: EventList, time: float, moved: Any, scrolled: Any) -> None:
        for name, counts in ((MOUSE_X, moved.x), (MOUSE_Y, moved.y), (MOUSE_WHEEL, scrolled.y)):
            if abs(counts) > MAX_COUNTS:
                raise BrokenRecordingError(self.path, "absurd mouse", f"record {len(self.stated) - 1}: {name} {counts}")
            if counts:
                events.move(time, name, counts)

    def play(self, video: Path) -> TimedPlay:
        """The recording, once all records are added."""
        number = len(self.stated)
        if not number:
            raise BrokenRecordingError(self.path, "no records", "it holds no record of a frame")
        rate = self.metadata.frames_per_second or RATE
        if not 1 <= rate <= 1000:  # NaN as well
            raise BrokenRecordingError(self.path, "bad value", f"frames_per_second is {rate}")
        has_times = bool(np.all(np.diff(self.stated) > 0)) and number > 1
        times = np.array(self.stated) if has_times else np.arange(number) / rate
        if has_times and self._events:
            events = self._timed.to_events()
        else:
            events = self._stepwise.to_events()
            events = events._replace(time=times[events.time.astype(int)])
        unknown = np.zeros(number, bool)
        unknown[self._unknown] = True
        runs = find_runs(unknown).tolist()
        excluded = tuple((float(times[first - 1]), float(times[end - 1])) for first, end in runs)
        remarks = (
            "" if has_times else f"frames without times: taken at {rate:g} per second",
            "" if has_times and self._events else "held keys and movement per frame, no events with times",
            f"{self._corrected} lost presses and releases" if has_times and self._events and self._corrected else "",
            f"{len(self._unknown)} frames without the player's action: excluded" if self._unknown else "",
            f"{self._texts} texts of stretches: not read" if self._texts else "",
        )
        frames = numbered_frames(video, times.tolist())
        return TimedPlay(events, frames, excluded, self._facts(), tuple(filter(None, remarks)))

    def _facts(self) -> dict[str, Any]:
        metadata = self.metadata
        facts = {
            "player": metadata.user, "session": metadata.id or self.path.parent.name,
            "game": "/".join(filter(None, (metadata.game.name, metadata.game.variant))),
            "text": "; ".join(metadata.tasks),
        }  # fmt: skip
        return {name: printable(value[:MAX_TEXT]) for name, value in facts.items() if value}


def _held(action: Any) -> set[str]:
    return {*map(key_name, action.keyboard.keys), *map(button_name, action.mouse.buttons)}


def _parse(path: Path, kind: str, content: bytes, what: str) -> Any:
    try:
        return message(kind).FromString(content)
    except DecodeError as error:
        raise BrokenRecordingError(path, "unreadable actions", f"{what} is damaged: {error}") from error


def _fields(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Fields of the outermost message with their contents, one at a time: the file may be larger than the memory."""
    size = os.fstat(file.fileno()).st_size
    while file.tell() < size:
        start = file.tell()
        tag = _varint(file, path)
        length = {0: -1, 1: 8, 2: -1, 5: 4}.get(tag & 7, -2)
        if length == -1:
            length = _varint(file, path)
        if length < 0 or (tag & 7) == 0:
            if (tag & 7) != 0:
                raise BrokenRecordingError(path, "unreadable actions", f"byte {start} begins no field")
            continue
        if length > MAX_RECORD and tag >> 3 in (METADATA_FIELD, RECORD_FIELD):
            raise BrokenRecordingError(path, "absurd size", f"the record at byte {start} states {length:,} bytes")
        if length > size - file.tell():
            raise BrokenRecordingError(path, "unreadable actions", f"it is cut short in the field at byte {start}")
        if tag & 7 == 2 and tag >> 3 in (METADATA_FIELD, RECORD_FIELD):
            yield tag >> 3, file.read(length)
        else:
            file.seek(length, os.SEEK_CUR)


def _varint(file: BinaryIO, path: Path) -> int:
    """A number of seven bits per byte, the lowest first."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise BrokenRecordingError(path, "unreadable actions", f"no number ends at byte {file.tell()}")


BRIDGE = Bridge(find_recordings, recording_files, read)
