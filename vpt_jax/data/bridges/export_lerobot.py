"""Episodes as a LeRobot v3 dataset: Parquet files, mp4 files that several episodes share, and metadata.

The vector `action` has the dataset's keys (0 or 1), then its axes, by their names; `confidence` is the probability of
each label. `meta/vpt.json` says which are keys, and keeps episode names and the action space. Consecutive episodes of
about an hour make a file pair. A pair is written atomically, its Parquet file last, and skipped if that exists.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from vpt_jax.data.bridges.export_video import write_frames
from vpt_jax.data.bridges.exported import ExportedEpisode
from vpt_jax.data.bridges.lerobot_layout import FilePlace
from vpt_jax.system.atomic_files import atomic_write, write_text
from vpt_jax.video import FRAME_RATE, Frame

FILE_FRAMES = 3600 * FRAME_RATE  # of a pair of files, unless one episode is longer
FILES_PER_CHUNK = 1000
CAMERA = "observation.images.screen"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
HISTOGRAM_PATH = "meta/vpt_histograms/chunk-{chunk_index:03d}/file-{file_index:03d}.json"
_SAMPLED = 10  # every tenth frame counts for the statistics of images


class Unit(NamedTuple):
    """Consecutive episodes that share a Parquet file and a video."""

    place: FilePlace
    first: int  # episode
    stop: int
    first_row: int  # in the whole dataset


def plan_units(lengths: Sequence[int]) -> list[Unit]:
    """Units of at most `FILE_FRAMES` frames, or one episode; depends on the lengths of the episodes only."""
    units: list[Unit] = []
    first = first_row = row = 0
    for number, length in enumerate(lengths):
        if number > first and row + length - first_row > FILE_FRAMES:
            units.append(_unit(len(units), first, number, first_row))
            first, first_row = number, row
        row += length
    return [*units, _unit(len(units), first, len(lengths), first_row)] if lengths else []


def _unit(number: int, first: int, stop: int, first_row: int) -> Unit:
    return Unit(FilePlace(*divmod(number, FILES_PER_CHUNK)), first, stop, first_row)


def unit_file(out: Path, pattern: str, place: FilePlace) -> Path:
    """A file of a unit; `pattern` is one of the three paths above."""
    return out / pattern.format(chunk_index=place.chunk, file_index=place.file, video_key=CAMERA)


def is_written(out: Path, unit: Unit) -> bool:
    """True if the unit's files are complete."""
    return unit_file(out, DATA_PATH, unit.place).is_file()


def write_unit(out: Path, unit: Unit, episodes: Sequence[ExportedEpisode], crf: int) -> None:
    """Writes the files of a unit; the Parquet file last.

    Args:
        out: the dataset's folder.
        unit: which files.
        episodes: those of the unit, in order.
        crf: of the video, as of `write_frames`.
    """
    files = [unit_file(out, pattern, unit.place) for pattern in (VIDEO_PATH, HISTOGRAM_PATH, DATA_PATH)]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
    histogram = np.zeros((3, 256), np.int64)
    with atomic_write(files[0]) as video:
        size = write_frames(video, _counted_frames(episodes, histogram), crf)
    write_text(files[1], json.dumps({"size": size, "histogram": histogram.tolist()}) + "\n")
    with atomic_write(files[2]) as path:
        schema = _schema(episodes[0])
        with pq.ParquetWriter(path, schema, compression="snappy") as writer:
            row = unit.first_row
            for number, episode in enumerate(episodes, unit.first):
                writer.write_table(_table(episode, number, row, schema))  # a row group for each episode
                row += len(episode)


def _counted_frames(episodes: Sequence[ExportedEpisode], histogram: Int64[np.ndarray, "3 256"]) -> Iterator[Frame]:
    """Frames of all episodes; adds the values of every tenth to the histogram of each colour."""
    for episode in episodes:
        for number, frame in enumerate(episode.frames()):
            if number % _SAMPLED == 0:
                for colour in range(3):
                    histogram[colour] += np.bincount(frame[..., colour].ravel(), minlength=256)
            yield frame


def _schema(episode: ExportedEpisode) -> pa.Schema:
    size = len(episode.space.keys) + len(episode.space.axes)
    vector = pa.float32() if size == 1 else pa.list_(pa.float32(), size)  # LeRobot stores vectors of one as numbers
    numbers = [(name, pa.int64()) for name in ("frame_index", "episode_index", "index", "task_index")]
    return pa.schema([("action", vector), ("confidence", pa.float32()), ("timestamp", pa.float32()), *numbers])


def action_vectors(episode: ExportedEpisode) -> Float32[np.ndarray, "n elements"]:
    """Keys, then axes, of each step."""
    return np.concatenate([episode.buttons.astype(np.float32), episode.camera.astype(np.float32)], 1)


def _table(episode: ExportedEpisode, number: int, first_row: int, schema: pa.Schema) -> pa.Table:
    count = len(episode)
    flat = pa.array(action_vectors(episode).ravel())
    vector = schema.field("action").type
    frame = np.arange(count)
    columns = [
        flat if vector == pa.float32() else pa.FixedSizeListArray.from_arrays(flat, vector.list_size),
        pa.array(episode.confidence.astype(np.float32)),
        pa.array((frame / FRAME_RATE).astype(np.float32)),
        *(
            pa.array(values.astype(np.int64))
            for values in (frame, np.full(count, number), first_row + frame, 0 * frame)
        ),
    ]
    return pa.Table.from_arrays(columns, schema=schema)
