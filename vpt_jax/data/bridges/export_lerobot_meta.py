"""Metadata of a LeRobot v3 dataset: episodes, tasks, statistics and `info.json`, which is written last."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, Shaped

from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.bridges.export_lerobot import (
    CAMERA,
    DATA_PATH,
    FILES_PER_CHUNK,
    HISTOGRAM_PATH,
    VIDEO_PATH,
    Unit,
    unit_file,
)
from vpt_jax.data.bridges.export_video import pixel_format
from vpt_jax.data.bridges.exported import ExportError
from vpt_jax.data.bridges.lerobot_layout import INFO, SIDECAR, VERSION
from vpt_jax.system.atomic_files import atomic_write, read_json, write_text
from vpt_jax.video import FRAME_RATE

EPISODES_FILE = "meta/episodes/chunk-000/file-000.parquet"
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_DATA_MB, _VIDEO_MB = 100, 200  # LeRobot's own: the size at which it begins another file
_INDEX = "__index_level_0__"  # the column in which pandas stores a table's index


class Contents(NamedTuple):
    """Contents that the metadata describe: all episodes in order, and their labels, one column at a time."""

    space: ActionSpace
    labels: str
    names: Sequence[str]
    lengths: Sequence[int]
    splits: Mapping[str, tuple[int, int]]  # range of episodes
    column: Any  # number of an element of the action, or "confidence" -> its values in the whole dataset
    task: str
    crf: int  # of the videos
    facts: Mapping[str, Mapping[str, Any]]  # by name of the episode


def write_metadata(out: Path, contents: Contents, units: Sequence[Unit]) -> None:
    """Writes everything below `meta`, when all units are written."""
    (out / EPISODES_FILE).parent.mkdir(parents=True, exist_ok=True)
    size, histogram = _histograms(out, units)
    with atomic_write(out / EPISODES_FILE) as path:
        pq.write_table(_episodes(contents, units), path, compression="snappy")
    with atomic_write(out / "meta" / "tasks.parquet") as path:
        pq.write_table(_tasks(contents.task), path)
    write_text(out / "meta" / "stats.json", json.dumps(_stats(contents, histogram), indent=4) + "\n")
    write_text(out / SIDECAR, json.dumps(_sidecar(contents), indent=1) + "\n")
    write_text(out / INFO, json.dumps(_info(contents, size), indent=4) + "\n")


def _sidecar(contents: Contents) -> dict[str, Any]:
    facts = {"episode_facts": dict(contents.facts)} if contents.facts else {}
    return facts | {
        "video": CAMERA,
        "keys": list(contents.space.keys),
        "axes": [axis.name for axis in contents.space.axes],
        "labels": contents.labels,
        "episodes": list(contents.names),
        "action_space": contents.space.to_dict(),
    }


def _episodes(contents: Contents, units: Sequence[Unit]) -> pa.Table:
    rows = []
    for unit in units:
        row = unit.first_row
        for number in range(unit.first, unit.stop):
            length = int(contents.lengths[number])
            start = row - unit.first_row
            rows.append(
                {
                    "episode_index": number,
                    "tasks": [contents.task],
                    "length": length,
                    "data/chunk_index": unit.place.chunk,
                    "data/file_index": unit.place.file,
                    "dataset_from_index": row,
                    "dataset_to_index": row + length,
                    f"videos/{CAMERA}/chunk_index": unit.place.chunk,
                    f"videos/{CAMERA}/file_index": unit.place.file,
                    f"videos/{CAMERA}/from_timestamp": start / FRAME_RATE,
                    f"videos/{CAMERA}/to_timestamp": (start + length) / FRAME_RATE,
                    "meta/episodes/chunk_index": 0,
                    "meta/episodes/file_index": 0,
                }
            )
            row += length
    return pa.Table.from_pylist(rows)


def _tasks(task: str) -> pa.Table:
    """The table of tasks as pandas reads it: the text is the index."""
    column = {"field_name": _INDEX, "name": None, "numpy_type": "object", "pandas_type": "unicode", "metadata": None}
    number = {"field_name": "task_index", "name": "task_index", "numpy_type": "int64", "pandas_type": "int64",
              "metadata": None}  # fmt: skip
    names = {"field_name": None, "name": None, "numpy_type": "object", "pandas_type": "unicode", "metadata": None}
    pandas = {"index_columns": [_INDEX], "column_indexes": [names], "columns": [number, column]}
    table = pa.table({"task_index": pa.array([0], pa.int64()), _INDEX: pa.array([task], pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def _info(contents: Contents, size: tuple[int, int]) -> dict[str, Any]:
    names = [*contents.space.keys, *(axis.name for axis in contents.space.axes)]
    video = {
        "video.height": size[0], "video.width": size[1], "video.codec": "h264",
        "video.pix_fmt": pixel_format(*size, contents.crf), "video.is_depth_map": False, "video.fps": FRAME_RATE,
        "video.channels": 3, "has_audio": False,
    }  # fmt: skip
    integers = ("frame_index", "episode_index", "index", "task_index")
    return {
        "codebase_version": VERSION,
        "robot_type": contents.space.name,
        "total_episodes": len(contents.names),
        "total_frames": int(sum(contents.lengths)),
        "total_tasks": 1,
        "chunks_size": FILES_PER_CHUNK,
        "data_files_size_in_mb": _DATA_MB,
        "video_files_size_in_mb": _VIDEO_MB,
        "fps": FRAME_RATE,
        "splits": {split: f"{first}:{stop}" for split, (first, stop) in contents.splits.items()},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {
            "action": {"dtype": "float32", "shape": [len(names)], "names": names},
            "confidence": {"dtype": "float32", "shape": [1], "names": None},
            CAMERA: {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"], "info": video},
            "timestamp": {"dtype": "float32", "shape": [1], "names": None},
            **{name: {"dtype": "int64", "shape": [1], "names": None} for name in integers},
        },
    }


def _stats(contents: Contents, histogram: Int64[np.ndarray, "3 256"]) -> dict[str, Any]:
    """Statistics of every column, by which LeRobot's policies normalize."""
    elements = len(contents.space.keys) + len(contents.space.axes)
    lengths = np.array(contents.lengths)
    frames = np.concatenate([np.arange(length) for length in lengths])
    numbers = {
        "timestamp": frames / FRAME_RATE,
        "frame_index": frames,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(lengths.sum()),
        "task_index": np.zeros(lengths.sum()),
        "confidence": contents.column("confidence"),
    }
    actions = [_column_stats(contents.column(element)) for element in range(elements)]
    joined = {name: [value for stats in actions for value in stats[name]] for name in actions[0]}
    stats: dict[str, Any] = {"action": joined | {"count": actions[0]["count"]}}
    stats |= {name: _column_stats(values) for name, values in numbers.items()}
    return stats | {CAMERA: _image_stats(histogram)}


def _column_stats(values: Shaped[np.ndarray, " n"]) -> dict[str, list[float]]:
    values = values.astype(np.float64)
    found = {"min": values.min(), "max": values.max(), "mean": values.mean(), "std": values.std()}
    quantiles = zip(_QUANTILES, np.quantile(values, list(_QUANTILES.values())), strict=True)
    return {name: [float(value)] for name, value in (*found.items(), *quantiles)} | {"count": [len(values)]}


def _image_stats(histogram: Int64[np.ndarray, "3 256"]) -> dict[str, Any]:
    """Statistics of each colour, in [0, 1], of shape [3, 1, 1]; `count` is of pixels that were counted."""
    levels = np.arange(256) / 255
    found: dict[str, list[float]] = {name: [] for name in ("min", "max", "mean", "std", *_QUANTILES)}
    for counts in histogram:
        share = counts / counts.sum()
        present = levels[counts > 0]
        mean = float(share @ levels)
        values = {"min": present[0], "max": present[-1], "mean": mean}
        values["std"] = float(np.sqrt(max(share @ levels**2 - mean**2, 0)))
        values |= {name: levels[np.searchsorted(np.cumsum(share), q)] for name, q in _QUANTILES.items()}
        for name, value in values.items():
            found[name].append(float(value))
    shaped = {name: [[[value]] for value in values] for name, values in found.items()}
    return shaped | {"count": [int(histogram[0].sum())]}


def _histograms(out: Path, units: Sequence[Unit]) -> tuple[tuple[int, int], Int64[np.ndarray, "3 256"]]:
    """Size of the frames, and the sum of all units' histograms. Raises `ExportError`."""
    total = np.zeros((3, 256), np.int64)
    sizes: set[tuple[int, int]] = set()
    for size, histogram in _stored(out, units):
        total += histogram
        sizes.add(size)
    if len(sizes) != 1:
        raise ExportError(f"the dataset's splits have frames of several sizes: {sorted(sizes)}; export them one by one")
    return sizes.pop(), total


def _stored(out: Path, units: Sequence[Unit]) -> Iterator[tuple[tuple[int, int], Int64[np.ndarray, "3 256"]]]:
    for unit in units:
        file = unit_file(out, HISTOGRAM_PATH, unit.place)
        try:
            values = read_json(file)
            height, width = values["size"]
            yield (int(height), int(width)), np.array(values["histogram"], np.int64).reshape(3, 256)
        except (TypeError, KeyError, ValueError) as error:
            raise ExportError(f"{file} is missing or damaged: remove {out} and export again") from error
