"""Files of a LeRobot v3 dataset: `meta/info.json`, the table of episodes, and where each episode's rows and frames are.

Several episodes share one Parquet file and one video, so an episode is a range of rows and a range of time. All paths
come from `info.json`: they may use three fields only, and must lie in the dataset's folder.
"""

import itertools
import string
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vpt_jax.data.bridges.facts import read_json_object
from vpt_jax.recording import MAX_STEPS, BrokenRecordingError

INFO = "meta/info.json"
SIDECAR = "meta/vpt.json"  # of this library: which names of an action are keys, and which video is read
VERSION = "v3.0"
MAX_JSON = 2**26  # bytes
MAX_EPISODES = 5_000_000
MAX_FILE_ROWS = 100_000_000
MAX_GROUP = 2**31  # bytes of a row group without compression
_PATH_FIELDS = {"chunk_index", "file_index", "video_key"}
_PATH_FORMATS = {"", "d", "02d", "03d", "04d", "05d", "06d"}


class FilePlace(NamedTuple):
    """A file of a series: `chunk-CHUNK/file-FILE`."""

    chunk: int
    file: int


class EpisodePlace(NamedTuple):
    """Place of an episode in the data and video files."""

    number: int
    length: int  # frames
    first_row: int  # in all data files together
    data: FilePlace
    video: FilePlace | None
    start: float  # seconds, in the video file
    tasks: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """A dataset's folder and its `info.json`."""

    folder: Path
    info: Mapping[str, Any]
    sidecar: Mapping[str, Any]

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.info["fps"])

    @property
    def features(self) -> Mapping[str, Mapping[str, Any]]:
        """Descriptions of all columns and videos, by name."""
        return self.info["features"]

    def data_file(self, place: FilePlace) -> Path:
        """Parquet file of this place."""
        return self._file("data_path", place)

    def video_file(self, place: FilePlace, key: str) -> Path:
        """Video of this place and camera."""
        return self._file("video_path", place, key)

    def _file(self, field: str, place: FilePlace, key: str = "") -> Path:
        pattern = self.info.get(field)
        where = self.folder / INFO
        if not isinstance(pattern, str) or not _is_plain(pattern):
            raise BrokenRecordingError(where, "bad value", f"`{field}` is {str(pattern)[:100]!r}")
        name = pattern.format(chunk_index=place.chunk, file_index=place.file, video_key=key)
        file = (self.folder / name).resolve()
        if not file.is_relative_to(self.folder.resolve()):
            raise BrokenRecordingError(
                where, "bad value", f"`{field}` leads out of the dataset's folder: {name[:100]!r}"
            )
        if not file.is_file():
            raise BrokenRecordingError(
                self.folder / name, "missing actions" if not key else "missing video", "no such file"
            )
        return file


def _is_plain(pattern: str) -> bool:
    """True if a path pattern has the fields of LeRobot's own only."""
    try:
        fields = [part[1:] for part in string.Formatter().parse(pattern) if part[1] is not None]
    except ValueError:
        return False
    return all(name in _PATH_FIELDS and spec in _PATH_FORMATS and not convert for name, spec, convert in fields)


def read_layout(folder: Path) -> Layout:
    """Reads and checks a dataset's description. Raises `BrokenRecordingError`."""
    file = folder / INFO
    if not file.is_file():
        raise BrokenRecordingError(file, "missing actions", "there is no such file")
    info = read_json_object(file, MAX_JSON)
    version = info.get("codebase_version")
    if not isinstance(version, str) or not version.startswith("v3."):
        detail = (
            f"`codebase_version` is {str(version)[:40]!r}, and v3.0 is read: convert the dataset with LeRobot's own "
            "program (python -m lerobot.datasets.v30.convert_dataset_v21_to_v30)"
        )
        raise BrokenRecordingError(file, "bad value", detail)
    fps, features = info.get("fps"), info.get("features")
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps <= 1000:
        raise BrokenRecordingError(file, "bad value", f"`fps` is {str(fps)[:40]!r}")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise BrokenRecordingError(file, "missing field", "`features` is not an object of objects")
    sidecar = folder / SIDECAR
    return Layout(folder, info, read_json_object(sidecar, MAX_JSON) if sidecar.is_file() else {})


def read_episodes(layout: Layout, video_key: str) -> list[EpisodePlace]:
    """All episodes in their order. `video_key`: the camera whose videos are read; "" for frames in the data files."""
    episodes: list[EpisodePlace] = []
    for file in sorted((layout.folder / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
        for row in _episode_rows(file, layout, video_key):
            episodes.append(row)
            if len(episodes) > MAX_EPISODES:
                raise BrokenRecordingError(file, "absurd size", f"more than {MAX_EPISODES:,} episodes")
    if not episodes:
        raise BrokenRecordingError(layout.folder / "meta" / "episodes", "no records", "there is no episode")
    episodes.sort(key=lambda episode: episode.number)
    repeated = next((a.number for a, b in itertools.pairwise(episodes) if a.number == b.number), None)
    if repeated is not None:
        raise BrokenRecordingError(layout.folder, "bad value", f"episode {repeated} is listed twice")
    return episodes


def _episode_rows(file: Path, layout: Layout, video_key: str) -> Iterator[EpisodePlace]:
    prefix = f"videos/{video_key}/"
    columns = ["episode_index", "length", "dataset_from_index", "data/chunk_index", "data/file_index"]
    columns += [prefix + name for name in ("chunk_index", "file_index", "from_timestamp")] if video_key else []
    with open_table(file) as table:
        known = set(table.schema_arrow.names)
        if missing := [name for name in columns if name not in known]:
            raise BrokenRecordingError(file, "missing field", f"there is no column {missing[0]!r}")
        columns += ["tasks"] if "tasks" in known else []
        for batch in _batches(table, file, columns):
            for row in batch.to_pylist():
                yield _episode(row, file, layout, prefix if video_key else "")


def _episode(row: Mapping[str, Any], file: Path, layout: Layout, prefix: str) -> EpisodePlace:
    numbers = [name for name in row if name != "tasks" and not name.endswith("from_timestamp")]
    start = row[prefix + "from_timestamp"] if prefix else 0.0
    for name in numbers:
        if not isinstance(row[name], int) or not 0 <= row[name] < 2**40:
            raise BrokenRecordingError(file, "bad value", f"{name!r} is {row[name]!r}")
    if not 1 <= row["length"] <= MAX_STEPS:
        raise BrokenRecordingError(file, "absurd size", f"episode {row['episode_index']} has {row['length']:,} frames")
    if not isinstance(start, int | float) or not 0 <= start <= 10 * MAX_STEPS:
        raise BrokenRecordingError(file, "bad value", f"{prefix}from_timestamp is {start!r}")
    tasks = row.get("tasks") or []
    return EpisodePlace(
        number=row["episode_index"],
        length=row["length"],
        first_row=row["dataset_from_index"],
        data=FilePlace(row["data/chunk_index"], row["data/file_index"]),
        video=FilePlace(row[prefix + "chunk_index"], row[prefix + "file_index"]) if prefix else None,
        start=float(start),
        tasks=tuple(str(task)[:1000] for task in (tasks if isinstance(tasks, list) else [tasks])[:100]),
    )


def open_table(file: Path) -> pq.ParquetFile:
    """Opens a Parquet file. Raises `BrokenRecordingError`."""
    try:
        table = pq.ParquetFile(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BrokenRecordingError(file, "unreadable actions", f"not an intact Parquet file: {error}") from error
    groups = (table.metadata.row_group(number) for number in range(table.num_row_groups))
    largest = max((group.total_byte_size for group in groups), default=0)
    if table.metadata.num_rows > MAX_FILE_ROWS or largest > MAX_GROUP:
        detail = f"{table.metadata.num_rows:,} rows, and a group of them has {largest:,} bytes without compression"
        table.close()
        raise BrokenRecordingError(file, "absurd size", detail)
    return table


def _batches(table: pq.ParquetFile, file: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from table.iter_batches(batch_size=4096, columns=columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BrokenRecordingError(file, "unreadable actions", str(error)) from error


def read_rows(file: Path, first: int, count: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Rows `first` to `first + count` of a Parquet file, in batches; only the row groups that hold them are read.

    Raises:
        BrokenRecordingError: the file is damaged, or lacks a column or the rows.
    """
    with open_table(file) as table:
        if missing := [name for name in columns if name not in table.schema_arrow.names]:
            raise BrokenRecordingError(file, "missing field", f"there is no column {missing[0]!r}")
        if first < 0 or first + count > table.metadata.num_rows:
            detail = f"rows {first:,} to {first + count:,} are needed, and it has {table.metadata.num_rows:,}"
            raise BrokenRecordingError(file, "frame count", detail)
        begin, groups, skipped = 0, [], 0
        for number in range(table.num_row_groups):
            end = begin + table.metadata.row_group(number).num_rows
            if end <= first:
                skipped = end
            elif begin < first + count:
                groups.append(number)
            begin = end
        position = skipped
        try:
            for batch in table.iter_batches(batch_size=4096, row_groups=groups, columns=columns):
                low, high = max(first - position, 0), min(first + count - position, batch.num_rows)
                if low < high:
                    yield batch.slice(low, high - low)
                position += batch.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise BrokenRecordingError(file, "unreadable actions", str(error)) from error
