"""Collection of events one by one, for readers of formats that are read line by line."""

from array import array
from pathlib import Path

import numpy as np

from vpt_jax.data.bridges.interface import MAX_EVENTS, MAX_NAMES, InputEvents
from vpt_jax.recording import BrokenRecordingError


class EventList:
    """Events in the order of the file; `to_events` gives names their codes, keys first, each in alphabetical order.

    More events or names than a recording may have raise `BrokenRecordingError` before they are stored.

    Args:
        recording: the file, for errors.
    """

    def __init__(self, recording: Path) -> None:
        self._recording = recording
        self._names: dict[tuple[bool, str], int] = {}
        self._time, self._value, self._name = array("d"), array("d"), array("q")

    def __len__(self) -> int:
        return len(self._time)

    def key(self, time: float, name: str, pressed: bool) -> None:
        """Appends a press or a release."""
        self._append(time, (True, name), float(pressed))

    def move(self, time: float, name: str, value: float) -> None:
        """Appends a movement of an axis."""
        self._append(time, (False, name), value)

    def _append(self, time: float, name: tuple[bool, str], value: float) -> None:
        if len(self._time) >= MAX_EVENTS or (len(self._names) >= MAX_NAMES and name not in self._names):
            detail = f"more than {MAX_EVENTS:,} events, or than {MAX_NAMES:,} keys and axes"
            raise BrokenRecordingError(self._recording, "absurd size", detail)
        self._time.append(time)
        self._value.append(value)
        self._name.append(self._names.setdefault(name, len(self._names)))

    def to_events(self, origin: float = 0.0) -> InputEvents:
        """Returns the events; `origin` is subtracted from their times."""
        ordered = sorted(self._names, key=lambda name: (not name[0], name[1]))
        code = np.zeros(max(len(ordered), 1), np.int32)
        for position, name in enumerate(ordered):
            code[self._names[name]] = position
        keys = sum(is_key for is_key, _ in ordered)
        time = np.frombuffer(self._time, np.float64) - origin if self._time else np.zeros(0)
        names = np.frombuffer(self._name, np.int64) if self._name else np.zeros(0, np.int64)
        values = np.frombuffer(self._value, np.float64).copy() if self._value else np.zeros(0)
        return InputEvents(tuple(name for _, name in ordered), keys, time, code[names], values)
