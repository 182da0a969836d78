"""Interface of a bridge: a reader of one recorder's files, which yields play with its times; pairing.py does the rest.

Names of keys and axes are those of `key_names.py`, whatever the recorder calls them: "w", "space", "left_shift",
"mouse.left", "mouse.right", "mouse.middle", and the axes "mouse.x", "mouse.y" (right and down are positive, in counts
of the mouse) and "mouse.wheel" (up is positive). Formats whose actions have names of their own keep them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int32

from vpt_jax.data.bridges.facts import facts_file
from vpt_jax.video import Frame

MAX_EVENTS = 50_000_000  # of a recording: a mouse that reports 1,000 times per second for half a day
MAX_NAMES = 2000  # of keys and axes in a recording


class InputEvents(NamedTuple):
    """Key and mouse events of one recording, in any order; those of equal time in the order in which they happened.

    For a key, `value` is 1 (pressed; again while held, for repeats) or 0 (released). For an axis, it is the movement at
    that time. Formats that store an action per frame yield events at the frames' times, where something changes.
    """

    names: tuple[str, ...]  # keys, then axes
    num_keys: int  # the first `num_keys` names are keys
    time: Float64[np.ndarray, " n"]  # seconds, on the clock of the frames
    code: Int32[np.ndarray, " n"]  # position in `names`
    value: Float64[np.ndarray, " n"]


@dataclass(frozen=True)
class TimedPlay:
    """One recording of any format: frames with presentation times, and events with their own, on one clock.

    Attributes:
        events: keys and mouse.
        frames: starts a pass over (time in seconds, RGB frame), in order of time. Reads one frame at a time.
        excluded: [start, end) in seconds that must not be trained on: lost focus, pauses, other programs.
        facts: of the recording, for splits and reports: "player", "session", "world", "licence", "trainable" (False: it
            may not be trained on), "text", ...; those that the format has.
        remarks: what was found and handled, in words, for the report: "key 87 was never released", ...
    """

    events: InputEvents
    frames: Callable[[], Iterator[tuple[float, Frame]]]
    excluded: tuple[tuple[float, float], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class BridgeOptions(NamedTuple):
    """Options of `Bridge.read`, for what a format leaves open."""

    frames_per_second: float = 0.0  # of formats that store no times (CS:GO); 0: the format's own default
    start: float = 0.0  # of the video's first frame, on the clock of the events, in seconds


@dataclass(frozen=True)
class Bridge:
    """A format: how its recordings are found in a folder, and read.

    Attributes:
        find: folder -> recordings, sorted, as the path that `read` takes and that names the recording.
        files: recording -> all files that belong to it; a change of one means that it is prepared again.
        read: recording and options -> play, or several plays by name, where one file holds several episodes. Raises
            `BrokenRecordingError` with the file, the reason and the place.
        options: names of the options that `read` heeds.
        facts: recording -> path of NAME.json, which may have more facts (facts.py); whoever calls `read` reads it.
    """

    find: Callable[[Path], list[Path]]
    files: Callable[[Path], list[Path]]
    read: Callable[[Path, BridgeOptions], Mapping[str, TimedPlay]]
    options: tuple[str, ...] = ()
    facts: Callable[[Path], Path] = facts_file
