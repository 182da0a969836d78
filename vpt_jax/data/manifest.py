"""Which seconds of which videos count: a Parquet table, one row per segment.

The clean filter writes it (`launch/filter.py`); labelling, preparation and training read it, so no video is cut.
Any tool that writes Parquet can make one: the columns `video`, `start` and `end` are read, others are left alone.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vpt_jax.system.atomic_files import atomic_write
from vpt_jax.system.paths import local_path
from vpt_jax.system.printable import printable
from vpt_jax.video import FRAME_RATE

SUFFIX = ".parquet"
LONGEST = 1e9  # seconds, 32 years; no video has more
MOST_ROWS = 20_000_000  # a Parquet file of a few kB may say that it has billions
_LONGEST_NAME, _LONGEST_PATH = 255, 4000  # bytes, of file systems


class ManifestError(ValueError):
    """A manifest that cannot be read; the message names the file, the row and what to do."""


class Segment(NamedTuple):
    """These seconds of this video."""

    video: str  # its path in the manifest's folder, parts separated by "/"
    start: float  # seconds from the video's first frame
    end: float

    @property
    def frames(self) -> slice:
        """The same in frames of the video at 20 per second."""
        return slice(round(self.start * FRAME_RATE), round(self.end * FRAME_RATE))

    @property
    def name(self) -> str:
        """What the segment is called in a dataset: the video's name without suffix, and the frames."""
        return f"{PurePosixPath(self.video).with_suffix('')}@{self.frames.start}-{self.frames.stop}"


def read_segments(manifest: Path) -> list[Segment]:
    """The segments of a manifest by video and time.

    Times may be integers, floats or decimals (DuckDB's literals) of any width. A million rows take a few seconds.

    Raises:
        ManifestError: the file is no such table, a path leads out of its folder, a segment is empty or has no possible
            time, or two overlap.
    """
    local_path(manifest, "the manifest")
    table = _read_columns(manifest)
    codes, names = _encode(table.column("video"))
    start, end = (table.column(name).to_numpy() for name in ("start", "end"))
    videos = [_canonical(name) for name in names]
    with np.errstate(invalid="ignore", over="ignore"):
        frames = np.rint(np.stack([start, end]) * FRAME_RATE)
        timed = (start >= 0) & (start < end) & (end <= LONGEST)
    placed = np.array([video is not None for video in videos] + [False])[codes]  # -1: null
    if not (fine := placed & timed & (frames[0] < frames[1])).all():
        row = int(np.argmin(fine))
        name = names[codes[row]] if codes[row] >= 0 else None
        raise ManifestError(f"{manifest}, row {row}: {_complaint(name, placed[row], timed[row], start[row], end[row])}")
    ranks = {video: rank for rank, video in enumerate(sorted({video for video in videos if video}))}
    rank = np.array([ranks.get(video or "", -1) for video in videos], int)[codes] if videos else codes
    order = np.lexsort((end, start, rank))
    by_rank = list(ranks)
    rank, start, end, frames = rank[order], start[order], end[order], frames[:, order]
    segments = [
        Segment(by_rank[number], *times)
        for number, *times in zip(rank.tolist(), start.tolist(), end.tolist(), strict=True)
    ]
    overlaps = (rank[1:] == rank[:-1]) & (frames[1, :-1] > frames[0, 1:])
    if overlaps.any():
        before, after = segments[(i := int(np.argmax(overlaps)))], segments[i + 1]
        raise ManifestError(
            f"{manifest}: {printable(after.name)} begins before {printable(before.name)} ends: make them one"
        )
    return segments


def _read_columns(manifest: Path) -> pa.Table:
    """The three columns, times as float64."""
    if not manifest.is_file():  # a pipe would be waited for
        raise ManifestError(f"{manifest} is no manifest: there is no such file")
    try:
        with pq.ParquetFile(manifest, read_dictionary=["video"]) as file:  # a name of a million rows is there once
            if file.metadata.num_rows > MOST_ROWS:
                raise ManifestError(
                    f"{manifest} has {file.metadata.num_rows:,} rows, and may have {MOST_ROWS:,}: split it"
                )
            table = file.read(columns=list(Segment._fields))
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
        raise ManifestError(f"{manifest} is no manifest: {printable(error, length=500)}") from error
    return pa.table(columns, names=list(Segment._fields))


def _names(manifest: Path, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ManifestError(f"{manifest}: column video is of type {kind}, and must be text")
    return column.cast(pa.string()) if kind != pa.string() else column


def _encode(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """The number of every row's name, -1 for a null, and the names."""
    whole = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    whole = whole.unify_dictionaries().combine_chunks()
    if isinstance(whole, pa.ChunkedArray):  # of no chunk
        return np.zeros(0, int), []
    return whole.indices.fill_null(-1).to_numpy().astype(int), whole.dictionary.to_pylist()


def _canonical(video: str | None) -> str | None:
    """A path in the manifest's folder, in one form ("./a" is "a"); None if it is none, or longer than any file's."""
    if video is None or not is_inside(video) or len(video.encode()) > _LONGEST_PATH:
        return None
    path = PurePosixPath(video)
    return None if any(len(part.encode()) > _LONGEST_NAME for part in path.parts) else path.as_posix()


def _complaint(video: str | None, placed: bool, timed: bool, start: float, end: float) -> str:
    if not placed:
        return (
            f"video is {printable(repr(video), length=300)}, and must be a path in the manifest's folder, without "
            f"'..', whose parts have {_LONGEST_NAME} bytes at most"
        )
    times = f"{printable(video, length=300)} from {start} to {end} s"
    return f"{times} holds no frame" if timed else f"{times} is no segment: 0 <= start < end <= {LONGEST:g} is needed"


def is_inside(path: str) -> bool:
    """Whether a relative path, parts separated by "/", stays in its folder, whatever that is."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path and "\0" not in path


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Writes a Parquet table that exists under its name only once it is whole."""
    with atomic_write(path) as writing:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema), writing)
