"""Growing arrays of key and mouse events: 20 bytes an event, for recordings of hours with mice of 1,000 Hz."""

from array import array
from collections.abc import Iterable, Iterator

import numpy as np

from vpt_jax.data.bridges.interface import InputEvents


class EventArrays:
    """Events in any order, with times in nanoseconds, and names of keys and axes in any order."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}
        self._axes: set[str] = set()
        self._time, self._code, self._value = array("q"), array("i"), array("d")

    def __len__(self) -> int:
        return len(self._time)

    def add_key(self, time: int, name: str, held: bool) -> None:
        """Adds a press or a release at `time` nanoseconds."""
        self._append(time, name, float(held))

    def add_move(self, time: int, name: str, value: float) -> None:
        """Adds a movement of an axis at `time` nanoseconds."""
        self._axes.add(name)
        self._append(time, name, value)

    def declare_axes(self, names: Iterable[str]) -> None:
        """States axes that may have no movement."""
        for name in names:
            self._axes.add(name)
            self._codes.setdefault(name, len(self._codes))

    def declare_keys(self, names: Iterable[str]) -> None:
        """States keys that may never be pressed."""
        for name in names:
            self._codes.setdefault(name, len(self._codes))

    def _append(self, time: int, name: str, value: float) -> None:
        self._time.append(time)
        self._code.append(self._codes.setdefault(name, len(self._codes)))
        self._value.append(value)

    def rows(self) -> Iterator[tuple[int, str, float, bool]]:
        """Time, name and value of each event, and True for axes, in the order in which they were added."""
        names = list(self._codes)
        for time, code, value in zip(self._time, self._code, self._value, strict=True):
            yield time, names[code], value, names[code] in self._axes

    def to_events(self, origin: int) -> InputEvents:
        """Events in order of time, in seconds from `origin` nanoseconds; those of one time keep their order."""
        keys = sorted(self._codes.keys() - self._axes)
        names = (*keys, *sorted(self._axes))
        position = {name: number for number, name in enumerate(names)}
        codes = np.array([position[name] for name in self._codes], np.int32)
        time = np.array(self._time, np.int64)
        order = np.argsort(time, kind="stable")
        code = np.array(self._code, np.int64)[order]
        return InputEvents(
            names=names,
            num_keys=len(keys),
            time=(time[order] - origin) / 1e9,
            code=codes[code] if len(code) else np.zeros(0, np.int32),
            value=np.array(self._value, np.float64)[order],
        )
