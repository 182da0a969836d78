"""Benchmarks of reading, decoding and preparing datasets."""

import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import closing, redirect_stdout
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from absl import flags
from benches.measuring import BATCH, LENGTH, SIZE, Row, peak_memory, repeat, timed
from ml_collections import ConfigDict

from vpt_jax.data.codecs import measure_codecs
from vpt_jax.data.dataset import DatasetDamagedError, DatasetMissingError
from vpt_jax.data.prepare import PrepareError
from vpt_jax.data.prepare import prepare as make_dataset
from vpt_jax.data.streams import Stream, StreamSettings, batches
from vpt_jax.envs import RecordError
from vpt_jax.recording import BrokenRecordingError, find_recordings, read_frames, read_steps
from vpt_jax.system.cores import available_cores

_DATA = flags.DEFINE_string("data", "", "Dataset folder made by launch/prepare.py.")
_RECORDINGS = flags.DEFINE_string("recordings", "", "Folder of recordings: their frames are encoded by several codecs.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/bench", "Folder for the dataset that is made if none is given.")
_NULLS = flags.DEFINE_string("nulls", "drop", "Rule of the loader for null actions.")
_WORKERS = flags.DEFINE_integer("workers", available_cores(), "Processes of the loader; 0: this one.")

ERRORS = DatasetMissingError, DatasetDamagedError, BrokenRecordingError, RecordError, PrepareError
CODEC_FRAMES = 1152  # 36 chunks


def loader() -> list[Row]:
    """Batches per second of the stream, with all workers, without a train step."""
    stream = Stream(StreamSettings(dataset_folder(), "train", BATCH.value, LENGTH.value, _NULLS.value))
    workers: int = _WORKERS.value
    with closing(batches(stream, range(BATCH.value), 0, sys.maxsize, workers)) as steps:
        for _ in range(4 * max(workers, 1)):  # warm-up: starts the workers, fills the buffers
            next(steps)
        rate = repeat(lambda: next(steps))
    shape = "x".join(map(str, stream.frame_shape[:2]))
    return [{"frames": shape, "nulls": _NULLS.value, "workers": str(workers), "rows": str(BATCH.value),
             "length": str(LENGTH.value), "frames/s": f"{rate * BATCH.value * LENGTH.value:,.0f}",
             "ms/step": f"{1000 / rate:.1f}", "peak memory MB": f"{peak_memory() / 1e6:,.0f}"}]  # fmt: skip


def prepare() -> list[Row]:
    """Recordings to dataset, end to end: by one process, by one per core, and by as many Beam workers."""
    folder, cores = _RECORDINGS.value or str(make_data()[0]), available_cores()
    direct = ("--direct_running_mode=multi_processing", f"--direct_num_workers={cores}")
    runs: dict[str, tuple[int, str, tuple[str, ...]]] = {"1 process": (1, "", ())}
    runs[f"{cores} processes"] = (cores, "", ())
    if importlib.util.find_spec("apache_beam"):
        runs[f"Beam, {cores} workers"] = (cores, "DirectRunner", direct)
    return [{"by": by} | _prepare(folder, *how) for by, how in runs.items()]


def _prepare(folder: str, workers: int, runner: str, options: tuple[str, ...]) -> Row:
    config = config_of("prepare")
    with TemporaryDirectory() as out, redirect_stdout(None):
        config.update(recordings=folder, out=f"{out}/dataset", workers=workers)
        config.update(height=SIZE.value, width=SIZE.value)
        config.beam.update(runner=runner, options=options)
        made, seconds = timed(lambda: make_dataset(config))
        splits = json.loads((made / "report.json").read_text())["splits"].values()
    frames = sum(counts["frames"] for counts in splits)
    return {"frames": f"{frames:,}", "frames/s": f"{frames / seconds:,.0f}",
            "frames/s per core": f"{frames / seconds / workers:,.0f}"}  # fmt: skip


def decode() -> list[Row]:
    """Size, speed on one core and error of each image codec."""
    folder = Path(_RECORDINGS.value or make_data()[0] / "train")
    frames = np.stack(list(islice(recorded_frames(folder), CODEC_FRAMES)))
    return [
        {"codec": row.codec, "bytes/frame": f"{row.bytes_per_frame:,.0f}",
         "encoded/s": f"{row.encoded_per_second:,.0f}", "decoded/s": f"{row.decoded_per_second:,.0f}",
         "mean error": f"{row.mean_abs_error:.2f}", "PSNR dB": f"{row.psnr:.1f}"}
        for row in measure_codecs(frames)
    ]  # fmt: skip


def recorded_frames(folder: Path) -> Iterator[np.ndarray]:
    """Frames of all recordings of a folder, resized to the model's size, before a dataset's compression."""
    recordings = find_recordings(folder) or find_recordings(folder / "train")
    for path in recordings:
        steps = read_steps(path.with_name(path.name + ".jsonl"))
        yield from read_frames(path.with_name(path.name + ".mp4"), steps, SIZE.value, SIZE.value)


def dataset_folder() -> str:
    """Folder of the dataset that is given, or of one that is made."""
    return _DATA.value or str(make_data()[1])


def make_data() -> tuple[Path, Path]:
    """Records the embedded game and prepares a dataset; returns both folders."""
    from vpt_jax.envs.doom.recorder import record  # here, since only this needs the game installed

    recording, preparing = config_of("record", "bench"), config_of("prepare")
    recording.out = preparing.recordings = f"{_WORKDIR.value}/recordings"
    preparing.out = f"{_WORKDIR.value}/dataset"
    return record(recording), make_dataset(preparing)


def config_of(name: str, *variant: str) -> ConfigDict:
    """Config of a file in configs/, by name and variant."""
    return importlib.import_module(f"vpt_jax.configs.{name}").get_config(*variant)
