"""Bridge from any recorder: a folder of videos, each with a table of timed key and mouse events.

    NAME.mp4       or any other video, at any frame rate, constant or variable
    NAME.csv       or NAME.parquet: the events, one a row
    NAME.json      optional facts of the recording (facts.py)

The table has four columns, in any order; further ones are ignored:

    time     seconds (a decimal number) since the video's first frame; or on any other clock, such as Unix time, if
             NAME.json states the time of the video's first frame on it as `start`
    event    "press", "release", "move", "pause" or "resume"
    name     for press and release a key, for move an axis: those of key_names.py ("w", "mouse.left", "mouse.x"), or names
             of your own, such as those of the action space; empty for pause and resume
    value    for move the movement since the last event, in the axis's unit; else empty

From a "pause" (the game lost the focus, another window was shown) to the next "resume" nothing is trained on.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from vpt_jax.data.bridges.facts import read_facts
from vpt_jax.data.bridges.interface import Bridge, BridgeOptions, InputEvents, TimedPlay
from vpt_jax.data.bridges.pairing import MAX_EVENTS, MAX_NAMES
from vpt_jax.data.bridges.video_source import find_video, video_frames
from vpt_jax.recording import BrokenRecordingError
from vpt_jax.system.printable import printable
from vpt_jax.video_files import is_video

COLUMNS = ("time", "event", "name", "value")
KEY_EVENTS = {"release": 0.0, "press": 1.0}
EVENTS = (*KEY_EVENTS, "move", "pause", "resume")
SUFFIXES = (".csv", ".parquet")
MAX_NAME_LENGTH = 100  # characters
_TEXT = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema([("time", pa.float64()), ("event", _TEXT), ("name", _TEXT), ("value", pa.float64())])


def find(folder: Path) -> list[Path]:
    """Paths without suffix of all recordings in a folder, including those whose video or table is missing."""
    return sorted(
        {path.with_suffix("") for path in folder.iterdir() if path.suffix.lower() in SUFFIXES or is_video(path)}
    )


def files(recording: Path) -> list[Path]:
    """Video, tables and facts of a recording, as far as they exist."""
    parts = [find_video(recording.parent, recording.name), *_tables(recording), _facts_file(recording)]
    return [path for path in parts if path is not None and path.exists()]


def read(recording: Path, options: BridgeOptions = BridgeOptions()) -> Mapping[str, TimedPlay]:
    """Reads a recording; its name is that of its files."""
    tables = _tables(recording)
    if len(tables) != 1:
        table = tables[0] if tables else recording.with_name(recording.name + ".csv")
        problem = f"{tables[0].name} and {tables[1].name} exist: remove one" if tables else "there is no such file"
        raise BrokenRecordingError(table, "missing actions", problem)
    if (video := find_video(recording.parent, recording.name)) is None:
        raise BrokenRecordingError(recording.with_name(recording.name + ".mp4"), "missing video", "there is no video")
    facts = read_facts(_facts_file(recording))
    events, pauses = _events(tables[0])
    start = float(facts.pop("start", 0.0))
    excluded = sorted([*(tuple(pair) for pair in facts.pop("excluded", [])), *pauses])
    return {recording.name: TimedPlay(events, video_frames(video, start), tuple(excluded), facts)}


def _tables(recording: Path) -> list[Path]:
    return [
        path
        for path in sorted(recording.parent.iterdir())
        if path.stem == recording.name and path.suffix.lower() in SUFFIXES
    ]


def _facts_file(recording: Path) -> Path:
    return recording.with_name(recording.name + ".json")


def _events(table: Path) -> tuple[InputEvents, list[tuple[float, float]]]:
    """Events of a table, and the ranges from pause to resume."""
    columns = _read_csv(table) if table.suffix.lower() == ".csv" else _read_parquet(table)
    time, value = (np.asarray(columns.column(name).to_numpy(), np.float64) for name in ("time", "value"))
    event, name = (columns.column(name).combine_chunks().to_pylist() for name in ("event", "name"))
    _check_rows(table, time, event, name, value)
    kind = np.array([EVENTS.index(one) for one in event], np.int8)
    is_key, is_move = kind < 2, kind == 2
    keys, axes = (sorted({name[row] for row in np.flatnonzero(rows)}) for rows in (is_key, is_move))
    if both := sorted(set(keys) & set(axes)):
        raise BrokenRecordingError(table, "bad value", f"{both[0]!r} is pressed and moves: a name is a key or an axis")
    if any(len(one) > MAX_NAME_LENGTH for one in (*keys, *axes)) or len(keys) + len(axes) > MAX_NAMES:
        raise BrokenRecordingError(table, "absurd size", "too many, or too long, names of keys and axes")
    codes = {one: code for code, one in enumerate([*keys, *axes])}
    rows = np.flatnonzero(is_key | is_move)
    values = np.where(is_key, kind == 1, np.nan_to_num(value))[rows]
    code = np.array([codes[name[row]] for row in rows], np.int32)
    events = InputEvents((*keys, *axes), len(keys), time[rows], code, values)
    return events, _pauses(time, kind)
