"""Manifest of video segments: a Parquet table with one row per segment (video, start and end in seconds).

The clean filter writes it (`launch/filter.py`); labelling, preparation and training read it, so no video is cut.
Any tool that writes Parquet can make one: the columns `video`, `start` and `end` are read, others are ignored.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vpt_jax.system.atomic_files import atomic_write
from vpt_jax.system.errors import UserError
from vpt_jax.system.paths import local_path
from vpt_jax.system.printable import printable
from vpt_jax.video import FRAME_RATE

SUFFIX = ".parquet"
MAX_SECONDS = 1e9  # of a video: 32 years
MAX_ROWS = 20_000_000  # a Parquet file of a few kB may declare billions
_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4000  # limits of file systems


class ManifestError(UserError, ValueError):
    """Invalid manifest; the message names the file, the row and the remedy."""


class VideoSegment(NamedTuple):
    """Time range of a video."""

    video: str  # path relative to the manifest's folder, separated by "/"
    start: float  # seconds from the video's first frame
    end: float

    @property
    def frames(self) -> slice:
        """Range of frames at 20 per second."""
        return slice(round(self.start * FRAME_RATE), round(self.end * FRAME_RATE))

    @property
    def name(self) -> str:
        """Name of the segment in a dataset: the video's path without suffix, and the range of frames."""
        return f"{PurePosixPath(self.video).with_suffix('')}@{self.frames.start}-{self.frames.stop}"


def read_segments(manifest: Path) -> list[VideoSegment]:
    """Reads and validates the segments of a manifest, sorted by video and time.

    Times may be integers, floats or decimals (DuckDB's literals) of any width. A million rows take a few seconds.

    Raises:
        ManifestError: the file is not such a table, a path leads out of its folder, a segment is empty or has invalid
            times, or two segments overlap.
    """
    local_path(manifest, "the manifest")
    table = _read_columns(manifest)
    codes, names = dictionary_encode(table.column("video"))
    start, end = (table.column(name).to_numpy() for name in ("start", "end"))
    videos = [_normalize_path(name) for name in names]
    with np.errstate(invalid="ignore", over="ignore"):
        frames = np.rint(np.stack([start, end]) * FRAME_RATE)
        valid_times = (start >= 0) & (start < end) & (end <= MAX_SECONDS)
    valid_paths = np.array([video is not None for video in videos] + [False])[codes]  # -1: null
    if not (valid := valid_paths & valid_times & (frames[0] < frames[1])).all():
        row = int(np.argmin(valid))
        name = names[codes[row]] if codes[row] >= 0 else None
        problem = _describe_invalid_row(name, valid_paths[row], valid_times[row], start[row], end[row])
        raise ManifestError(f"{manifest}, row {row}: {problem}")
    ranks = {video: rank for rank, video in enumerate(sorted({video for video in videos if video}))}
    rank = np.array([ranks.get(video or "", -1) for video in videos], int)[codes] if videos else codes
    order = np.lexsort((end, start, rank))
    by_rank = list(ranks)
    rank, start, end, frames = rank[order], start[order], end[order], frames[:, order]
    segments = [
        VideoSegment(by_rank[number], *times)
        for number, *times in zip(rank.tolist(), start.tolist(), end.tolist(), strict=True)
    ]
    overlaps = (rank[1:] == rank[:-1]) & (frames[1, :-1] > frames[0, 1:])
    if overlaps.any():
        before, after = segments[(i := int(np.argmax(overlaps)))], segments[i + 1]
        raise ManifestError(
            f"{manifest}: {printable(after.name)} begins before {printable(before.name)} ends: merge them"
        )
    return segments


def _read_columns(manifest: Path) -> pa.Table:
    """Reads the columns video, start and end; times as float64."""
    if not manifest.is_file():  # opening a named pipe would block
        raise ManifestError(f"{manifest} is not a manifest: there is no such file")
    try:
        with pq.ParquetFile(manifest, read_dictionary=["video"]) as file:  # stores each distinct name once
            if file.metadata.num_rows > MAX_ROWS:
                raise ManifestError(
                    f"{manifest} has {file.metadata.num_rows:,} rows; the limit is {MAX_ROWS:,}: split it"
                )
            table = file.read(columns=list(VideoSegment._fields))
        table.validate(full=True)
        columns = [_names(manifest, table.column("video"))]
        for name in ("start", "end"):
            kind = table.schema.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
                raise ManifestError(f"{manifest}: column {name} is of type {kind}, and must be seconds, as numbers")
            columns.append(table.column(name).cast(pa.float64(), safe=False))
    except ManifestError:
        raise
    except (OSError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise ManifestError(f"{manifest} is not a manifest: {printable(error, length=500)}") from error
    return pa.table(columns, names=list(VideoSegment._fields))


def _names(manifest: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ManifestError(f"{manifest}: column video is of type {kind}, and must be text")
    return column.cast(pa.string()) if kind != pa.string() else column


def dictionary_encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Dictionary-encodes a column: the code of every row, -1 for a null, and the distinct names."""
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):  # without chunks
        return np.zeros(0, int), []
    return encoded.indices.fill_null(-1).to_numpy().astype(int), encoded.dictionary.to_pylist()


def _normalize_path(video: str | None) -> str | None:
    """Normalizes a path in the manifest's folder ("./a" to "a"); None if it is outside of it, or too long."""
    if video is None or not is_inside(video) or len(video.encode()) > _MAX_PATH_BYTES:
        return None
    path = PurePosixPath(video)
    return None if any(len(part.encode()) > _MAX_NAME_BYTES for part in path.parts) else path.as_posix()


def _describe_invalid_row(video: str | None, valid_path: bool, valid_times: bool, start: float, end: float) -> str:
    if not valid_path:
        return (
            f"video is {printable(repr(video), length=300)}, and must be a path in the manifest's folder, without "
            f"'..', whose parts have {_MAX_NAME_BYTES} bytes at most"
        )
    times = f"{printable(video, length=300)} from {start} to {end} s"
    if valid_times:
        return f"{times} holds no frame"
    return f"{times} is not a segment: 0 <= start < end <= {MAX_SECONDS:g} is needed"


def is_inside(path: str) -> bool:
    """Returns whether a relative path, separated by "/", stays inside its base folder (no path traversal)."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path and "\0" not in path


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Writes a Parquet table atomically."""
    with atomic_write(path) as writing:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema), writing)
