"""How fast datasets are read and decoded."""

import os
import runpy
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
from absl import flags
from benches.measuring import BATCH, LENGTH, SIZE, Row, peak_memory, repeat
from ml_collections import ConfigDict

from vpt_jax.data.codecs import measure_codecs
from vpt_jax.data.dataset import DatasetDamagedError, DatasetMissingError
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.data.streams import Stream, StreamSettings, batches
from vpt_jax.envs import RecordError
from vpt_jax.recording import BrokenRecording, find_recordings, read_frames, read_steps

_DATA = flags.DEFINE_string("data", "", "Dataset folder made by launch/prepare.py.")
_RECORDINGS = flags.DEFINE_string("recordings", "", "Folder of recordings whose frames are stored in several ways.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/bench", "Where a dataset is made if none is given.")
_NULLS = flags.DEFINE_string("nulls", "drop", "What the loader does with steps that do nothing.")
_WORKERS = flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes of the loader; 0: this one.")

ERRORS = DatasetMissingError, DatasetDamagedError, BrokenRecording, RecordError, PrepareError
CODEC_FRAMES = 1152  # 36 chunks


def loader() -> list[Row]:
    """Batches per second out of the stream, all workers reading, nothing computed."""
    stream = Stream(
        StreamSettings(_DATA.value or str(make_data()[1]), "train", BATCH.value, LENGTH.value, _NULLS.value)
    )
    workers: int = _WORKERS.value
    with closing(batches(stream, range(BATCH.value), 0, sys.maxsize, workers)) as steps:
        for _ in range(4 * max(workers, 1)):  # workers started, buffers full
            next(steps)
        rate = repeat(lambda: next(steps))
    shape = "x".join(map(str, stream.frame_shape[:2]))
    return [{"frames": shape, "nulls": _NULLS.value, "workers": str(workers), "rows": str(BATCH.value),
             "length": str(LENGTH.value), "frames/s": f"{rate * BATCH.value * LENGTH.value:,.0f}",
             "ms/step": f"{1000 / rate:.1f}", "peak memory MB": f"{peak_memory() / 1e6:,.0f}"}]  # fmt: skip


def decode() -> list[Row]:
    """Size, speed on one core and error of each way to store frames."""
    folder = Path(_RECORDINGS.value or make_data()[0] / "train")
    frames = np.stack(list(islice(recorded_frames(folder), CODEC_FRAMES)))
    return [
        {"codec": row.codec, "bytes/frame": f"{row.bytes_per_frame:,.0f}",
         "encoded/s": f"{row.encoded_per_second:,.0f}", "decoded/s": f"{row.decoded_per_second:,.0f}",
         "mean error": f"{row.mean_abs_error:.2f}", "PSNR dB": f"{row.psnr:.1f}"}
        for row in measure_codecs(frames)
    ]  # fmt: skip


def recorded_frames(folder: Path) -> Iterator[np.ndarray]:
    """The frames of all recordings of a folder, at the model's size: not yet compressed the way datasets are."""
    recordings = find_recordings(folder) or find_recordings(folder / "train")
    for path in recordings:
        steps = read_steps(path.with_name(path.name + ".jsonl"))
        yield from read_frames(path.with_name(path.name + ".mp4"), steps, SIZE.value, SIZE.value)


def make_data() -> tuple[Path, Path]:
    """Recordings of the embedded game, and a dataset made of them."""
    from vpt_jax.envs.recorder import record  # here, since only this needs the game installed

    recording, preparing = config_of("record", "bench"), config_of("prepare")
    recording.out = preparing.recordings = f"{_WORKDIR.value}/recordings"
    preparing.out = f"{_WORKDIR.value}/dataset"
    return record(recording), prepare(preparing)


def config_of(name: str, *variant: str) -> ConfigDict:
    file = Path(__file__).parents[2] / "configs" / f"{name}.py"
    return runpy.run_path(str(file))["get_config"](*variant)
