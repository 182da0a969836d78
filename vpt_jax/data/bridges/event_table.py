"""Bridge from any recorder: a folder of videos, each with a table of timed key and mouse events.

    NAME.mp4       or any other video, at any frame rate, constant or variable
    NAME.csv       or NAME.parquet: the events, one a row
    NAME.json      optional facts of the recording (facts.py)

The table has four columns, in any order; further ones are ignored:

    time     seconds (a decimal number) since the video's first frame; or on any other clock, such as Unix time, if
             NAME.json states the time of the video's first frame on it as `start`
    event    "press", "release", "move", "pause" or "resume"
    name     for press and release a key, for move an axis: those of key_names.py ("w", "mouse.left", "mouse.x"), or
             names of your own, such as those of the action space; empty for pause and resume
    value    for move the movement since the last event, in the axis's unit; else empty

From a "pause" (the game lost the focus, another window was shown) to the next "resume" nothing is trained on.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from vpt_jax.data.bridges.interface import MAX_EVENTS, MAX_NAMES, Bridge, BridgeOptions, InputEvents, TimedPlay
from vpt_jax.data.bridges.videos import files_named, find_video, timed_frames
from vpt_jax.recording import BrokenRecordingError
from vpt_jax.system.printable import printable
from vpt_jax.video_files import is_video

COLUMNS = ("time", "event", "name", "value")
EVENTS = ("release", "press", "move", "pause", "resume")
_PAUSE = EVENTS.index("pause")
SUFFIXES = (".csv", ".parquet")
_BLOCK_BYTES = 2**24  # of a CSV file that is held at a time; no row is longer
MAX_NAME_LENGTH = 100  # characters
_TEXT = pa.dictionary(pa.int32(), pa.string())
_SCHEMA = pa.schema([("time", pa.float64()), ("event", _TEXT), ("name", _TEXT), ("value", pa.float64())])


def find(folder: Path) -> list[Path]:
    """Paths without suffix of all recordings in a folder, including those whose video or table is missing."""
    return sorted(
        {path.with_suffix("") for path in folder.iterdir() if path.suffix.lower() in SUFFIXES or is_video(path)}
    )


def files(recording: Path) -> list[Path]:
    """Video and tables of a recording, as far as they exist."""
    parts = [find_video(recording.parent, recording.name), *_tables(recording)]
    return [path for path in parts if path is not None and path.exists()]


def read(recording: Path, options: BridgeOptions) -> Mapping[str, TimedPlay]:
    """Reads a recording; its name is that of its files."""
    tables = _tables(recording)
    if len(tables) != 1:
        table = tables[0] if tables else recording.with_name(recording.name + ".csv")
        problem = f"{tables[0].name} and {tables[1].name} exist: remove one" if tables else "there is no such file"
        raise BrokenRecordingError(table, "missing actions", problem)
    if (video := find_video(recording.parent, recording.name)) is None:
        raise BrokenRecordingError(recording.with_name(recording.name + ".mp4"), "missing video", "there is no video")
    events, pauses = _events(tables[0])
    return {recording.name: TimedPlay(events, timed_frames(video, options.start), tuple(pauses))}


def _tables(recording: Path) -> list[Path]:
    return files_named(recording.parent, recording.name, SUFFIXES)


def _events(table: Path) -> tuple[InputEvents, list[tuple[float, float]]]:
    """Events of a table, and the ranges from pause to resume."""
    try:
        columns = _read_csv(table) if table.suffix.lower() == ".csv" else _read_parquet(table)
        columns.validate(full=True)
    except BrokenRecordingError:
        raise
    except (OSError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise BrokenRecordingError(table, "unreadable actions", printable(error, length=500)) from error
    time, value = (np.asarray(columns.column(name).to_numpy(), np.float64) for name in ("time", "value"))
    kinds, kind = _encoded(columns.column("event"))
    names, name = _encoded(columns.column("name"))
    kind = np.array([EVENTS.index(one) if one in EVENTS else -1 for one in kinds], np.int64)[kind]
    _check_rows(table, time, kind, np.array([bool(one) for one in names])[name], value)
    is_key, is_move = (kind == 0) | (kind == 1), kind == 2
    keys, axes = (sorted(names[code] for code in np.unique(name[rows])) for rows in (is_key, is_move))
    _check_names(table, keys, axes)
    codes = {one: code for code, one in enumerate([*keys, *axes])}
    rows = is_key | is_move
    code = np.array([codes.get(one, 0) for one in names], np.int32)[name[rows]]
    values = np.where(is_key, kind == 1, value)[rows]
    return InputEvents((*keys, *axes), len(keys), time[rows], code, values), _pauses(time, kind)


def _read_csv(table: Path) -> pa.Table:
    """Reads the four columns of a CSV file, block by block."""
    types = {field.name: field.type for field in _SCHEMA}
    read = pa_csv.ReadOptions(use_threads=False, block_size=_BLOCK_BYTES)  # with threads, errors name no row
    convert = pa_csv.ConvertOptions(column_types=types, include_columns=list(COLUMNS), null_values=[""])
    batches, rows = [], 0
    with pa_csv.open_csv(table, read_options=read, convert_options=convert) as reader:
        for batch in reader:
            batches.append(batch)
            if (rows := rows + len(batch)) > MAX_EVENTS:
                raise BrokenRecordingError(table, "absurd size", f"more than {MAX_EVENTS:,} rows: split the recording")
    return pa.Table.from_batches(batches, _SCHEMA)


def _read_parquet(table: Path) -> pa.Table:
    with pq.ParquetFile(table) as file:
        if (rows := file.metadata.num_rows) > MAX_EVENTS:
            raise BrokenRecordingError(table, "absurd size", f"{rows:,} rows; up to {MAX_EVENTS:,} are read")
        if missing := set(COLUMNS) - set(file.schema_arrow.names):
            raise BrokenRecordingError(table, "missing field", f"there is no column {', '.join(sorted(missing))}")
    with pq.ParquetFile(table, read_dictionary=["event", "name"]) as file:  # stores each distinct text once
        columns = file.read(columns=list(COLUMNS))
    for name in ("time", "value"):
        kind = columns.schema.field(name).type
        known = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null)
        if not any(is_kind(kind) for is_kind in known):
            raise BrokenRecordingError(table, "bad value", f"column {name} is of type {kind}, and must hold numbers")
    return columns.select(list(COLUMNS)).cast(_SCHEMA)


def _encoded(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Distinct texts, and the position of each row's; a null is the empty text."""
    encoded = column.unify_dictionaries()
    if not encoded.num_chunks:
        return [""], np.zeros(0, np.int64)
    texts = [text or "" for text in encoded.chunk(0).dictionary.to_pylist()] + [""]
    codes = [np.asarray(chunk.indices.fill_null(len(texts) - 1), np.int64) for chunk in encoded.chunks]
    return texts, np.concatenate(codes)


def _check_rows(table: Path, time: np.ndarray, kind: np.ndarray, named: np.ndarray, value: np.ndarray) -> None:
    """Raises for the first row that is no event; the detail has the line of a CSV file."""
    problems = {
        f"`event` must be one of {', '.join(EVENTS)}": kind < 0,
        "`time` must be a number of seconds": ~np.isfinite(time),
        "`name` is empty": (kind >= 0) & (kind <= 2) & ~named,
        "`value` must be a number, the movement": (kind == 2) & ~np.isfinite(value),
    }
    for problem, rows in problems.items():
        if rows.any():
            raise BrokenRecordingError(
                table, "bad value", f"row {int(np.argmax(rows)) + 1} after the header: {problem}"
            )


def _check_names(table: Path, keys: list[str], axes: list[str]) -> None:
    if both := sorted(set(keys) & set(axes)):
        raise BrokenRecordingError(table, "bad value", f"{both[0]!r} is pressed and moves: a name is a key or an axis")
    if any(len(one) > MAX_NAME_LENGTH for one in (*keys, *axes)) or len(keys) + len(axes) > MAX_NAMES:
        raise BrokenRecordingError(table, "absurd size", "too many, or too long, names of keys and axes")


def _pauses(time: np.ndarray, kind: np.ndarray) -> list[tuple[float, float]]:
    """Ranges from each pause to the next resume; the last may be open."""
    found, since = [], None
    rows = np.flatnonzero(kind >= _PAUSE)
    for row in rows[np.argsort(time[rows], kind="stable")].tolist():
        if kind[row] == _PAUSE:
            since = float(time[row]) if since is None else since
        elif since is not None:
            found.append((since, float(time[row])))
            since = None
    return [*found, (since, float("inf"))] if since is not None else found


BRIDGE = Bridge(find, files, read, ("start",))
