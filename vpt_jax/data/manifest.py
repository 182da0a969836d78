"""Which seconds of which videos count: a Parquet table, one row per segment.

The clean filter writes it (`launch/filter.py`); labelling, preparation and training read it, so no video is cut.
Any tool that writes Parquet can make one: the columns `video`, `start` and `end` are read, others are left alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vpt_jax.state_files import atomic_write
from vpt_jax.video import FRAME_RATE

SUFFIX = ".parquet"


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

    Raises:
        ManifestError: the file is no such table, a path leads out of its folder, a segment is empty, or two overlap.
    """
    try:
        table = pq.read_table(manifest, columns=list(Segment._fields))
        rows = zip(*(table.column(name).to_pylist() for name in Segment._fields), strict=True)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ManifestError(f"{manifest} is no manifest: {error}") from error
    segments = sorted(_checked(manifest, number, row) for number, row in enumerate(rows))
    for before, after in pairwise(segments):
        if before.video == after.video and before.frames.stop > after.frames.start:
            raise ManifestError(f"{manifest}: {after.name} begins before {before.name} ends: make them one")
    return segments


def _checked(manifest: Path, number: int, row: Sequence[Any]) -> Segment:
    video, start, end = row
    where = f"{manifest}, row {number}"
    if not isinstance(video, str) or not is_inside(video):
        raise ManifestError(f"{where}: video is {video!r}, and must be a path in the manifest's folder, without '..'")
    if not all(isinstance(time, int | float) for time in (start, end)) or not 0 <= start < end < float("inf"):
        raise ManifestError(f"{where}: {video} from {start} to {end} s is no segment: 0 <= start < end is needed")
    segment = Segment(PurePosixPath(video).as_posix(), float(start), float(end))  # "./a" is "a"
    if segment.frames.start == segment.frames.stop:
        raise ManifestError(f"{where}: {video} from {start} to {end} s holds no frame")
    return segment


def is_inside(path: str) -> bool:
    """Whether a relative path, parts separated by "/", stays in its folder, whatever that is."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and "\\" not in path and "\0" not in path


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Writes a Parquet table that exists under its name only once it is whole."""
    with atomic_write(path) as writing:
        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema), writing)
