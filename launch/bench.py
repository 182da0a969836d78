"""How fast the parts are on this machine: frames/s, milliseconds and peak memory, with versions and settings.

    python launch/bench.py loader --data=DATASET
    python launch/bench.py decode --recordings=RECORDINGS/train
    python launch/bench.py train_step --preset=1x --batch=2 --length=16
    python launch/bench.py act --preset=1x
    python launch/bench.py label

`loader` reads and decodes a dataset as training does; `decode` compares image codecs on frames of recordings;
`train_step` is one update on random frames; `act` is one frame after another, as in play; `label` compares the two ways
to label long videos by an inverse dynamics model, on random frames, in turns. Without --data or --recordings,
a little play of the embedded game is recorded and prepared first, at 128x128, under --workdir. Comparison with the
reference PyTorch code (--against=torch) is left out for now.
"""

import importlib.metadata
import os
import platform
import resource
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from ml_collections import ConfigDict

from vpt_jax.data.batch import Batch
from vpt_jax.data.codecs import measure_codecs
from vpt_jax.data.dataset import DatasetDamagedError, DatasetMissingError
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.data.streams import Stream, StreamSettings, batches
from vpt_jax.envs import RecordError
from vpt_jax.labelling.model import MODES, label_spans
from vpt_jax.labelling.plan import Spans
from vpt_jax.models.idm import REACH, InverseDynamicsModel
from vpt_jax.models.policy import Policy
from vpt_jax.models.presets import IDMS, POLICIES
from vpt_jax.recording import BrokenRecording, find_recordings, read_frames, read_steps
from vpt_jax.training.behavioural_cloning import cloning_loss
from vpt_jax.training.optimizers import adam, linear_schedule
from vpt_jax.training.state import initial_state, train_step

_DATA = flags.DEFINE_string("data", "", "Dataset folder made by launch/prepare.py.")
_RECORDINGS = flags.DEFINE_string("recordings", "", "Folder of recordings whose frames are stored in several ways.")
_WORKDIR = flags.DEFINE_string("workdir", "runs/bench", "Where a dataset is made if none is given.")
_PRESET = flags.DEFINE_enum("preset", "tiny", list(POLICIES), "Size of the policy.")
_IDM = flags.DEFINE_enum("idm", "tiny", list(IDMS), "Size of the inverse dynamics model.")
_ROWS = flags.DEFINE_integer("rows", 1, "Spans labelled at a time.")
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "What the policy computes in.")
_REMAT = flags.DEFINE_bool("remat", False, "Recompute the image stacks in the backward pass.")
_SIZE = flags.DEFINE_integer("size", 128, "Height and width of frames.")
_BATCH = flags.DEFINE_integer("batch", 8, "Rows of a batch.")
_LENGTH = flags.DEFINE_integer("length", 64, "Frames of a window.")
_NULLS = flags.DEFINE_string("nulls", "drop", "What the loader does with steps that do nothing.")
_WORKERS = flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes of the loader; 0: this one.")
_SECONDS = flags.DEFINE_float("seconds", 10.0, "How long to measure, after a warm-up.")

Row = dict[str, str]
LABEL_WINDOW, LABEL_WINDOWS = 128, 15  # frames of a window, windows of a span, as in configs/label.py
CODEC_FRAMES = 1152  # 36 chunks


def loader() -> list[Row]:
    """Batches per second out of the stream, all workers reading, nothing computed."""
    stream = Stream(
        StreamSettings(_DATA.value or str(make_data()[1]), "train", _BATCH.value, _LENGTH.value, _NULLS.value)
    )
    workers: int = _WORKERS.value
    with closing(batches(stream, range(_BATCH.value), 0, sys.maxsize, workers)) as steps:
        for _ in range(4 * max(workers, 1)):  # workers started, buffers full
            next(steps)
        rate = repeat(lambda: next(steps))
    shape = "x".join(map(str, stream.frame_shape[:2]))
    return [{"frames": shape, "nulls": _NULLS.value, "workers": str(workers), "rows": str(_BATCH.value),
             "length": str(_LENGTH.value), "frames/s": f"{rate * _BATCH.value * _LENGTH.value:,.0f}",
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


def train_steps() -> list[Row]:
    """Updates per second on random frames that lie on the device."""
    policy, params, batch = random_inputs(_BATCH.value, _LENGTH.value)
    optimizer = adam(linear_schedule(1e-4, 10, 1000), 0.0625, 5.0)
    state = initial_state(params, optimizer, policy.initial_memory(_BATCH.value), jax.random.PRNGKey(0))
    step = jax.jit(partial(train_step, partial(cloning_loss, policy), optimizer), donate_argnums=0)
    compiled, seconds = timed(lambda: step.lower(state, batch).compile())

    def update() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics

    rate = repeat(update)
    return [policy_row(rate, _BATCH.value * _LENGTH.value, "ms/step", seconds)]


def act() -> list[Row]:
    """Frames per second when each is shown to the policy alone, memory carried on."""
    policy, params, batch = random_inputs(_BATCH.value, 1)
    memory = policy.initial_memory(_BATCH.value)
    step = jax.jit(lambda params, *inputs: policy.apply({"params": params}, *inputs), donate_argnums=3)
    compiled, seconds = timed(lambda: step.lower(params, batch.frames, batch.first, memory).compile())

    def play() -> Any:
        nonlocal memory
        output = compiled(params, batch.frames, batch.first, memory)
        memory = output.memory
        return output.logits

    rate = repeat(play)
    return [policy_row(rate, _BATCH.value, "ms/act", seconds)]


def label() -> list[Row]:
    """Frames labelled per second by each mode, in turns, so that both meet the same machine."""
    idm = InverseDynamicsModel(**IDMS[_IDM.value], dtype=jnp.dtype(_DTYPE.value))
    rows, frames = _ROWS.value, (LABEL_WINDOWS + 1) * LABEL_WINDOW // 2
    rng, size = np.random.default_rng(0), _SIZE.value
    pixels = rng.integers(0, 256, (rows, frames + 2 * REACH, size, size, 3), np.uint8)
    spans = jax.device_put(Spans(pixels, np.ones((rows, frames), bool), np.zeros((rows, 2), int)))
    params = jax.jit(idm.init)(jax.random.key(0), pixels[:1, :1])["params"]
    runs = {}
    for mode in MODES:
        step = jax.jit(partial(label_spans, idm, LABEL_WINDOW, mode, "argmax"))
        runs[mode] = step.lower(params, jax.random.key(1), spans).compile()
        jax.block_until_ready(runs[mode](params, jax.random.key(1), spans))
    seconds = dict.fromkeys(MODES, 0.0)
    counts = dict.fromkeys(MODES, 0)
    while min(seconds.values()) < _SECONDS.value:
        for mode, run in runs.items():
            _, taken = timed(partial(finish, run, params, jax.random.key(1), spans))
            seconds[mode], counts[mode] = seconds[mode] + taken, counts[mode] + 1
    kept = rows * LABEL_WINDOWS * LABEL_WINDOW // 2
    rates = {mode: kept * counts[mode] / seconds[mode] for mode in MODES}
    return [
        {"mode": mode, "model": _IDM.value, "frames": f"{size}x{size}", "frames/s": f"{rate:,.1f}",
         "against exact": f"{rate / rates['exact']:.2f}", "runs": str(counts[mode])}
        for mode, rate in rates.items()
    ]  # fmt: skip


BENCHES: dict[str, Callable[[], list[Row]]] = {
    "loader": loader, "decode": decode, "train_step": train_steps, "act": act, "label": label,
}  # fmt: skip


def recorded_frames(folder: Path) -> Iterator[np.ndarray]:
    """The frames of all recordings of a folder, at the model's size: not yet compressed the way datasets are."""
    recordings = find_recordings(folder) or find_recordings(folder / "train")
    for path in recordings:
        steps = read_steps(path.with_name(path.name + ".jsonl"))
        yield from read_frames(path.with_name(path.name + ".mp4"), steps, _SIZE.value, _SIZE.value)


def make_data() -> tuple[Path, Path]:
    """Recordings of the embedded game, and a dataset made of them."""
    from vpt_jax.envs.recorder import record  # here, since only this needs the game installed

    recording, preparing = config_of("record", "bench"), config_of("prepare")
    recording.out = preparing.recordings = f"{_WORKDIR.value}/recordings"
    preparing.out = f"{_WORKDIR.value}/dataset"
    return record(recording), prepare(preparing)


def config_of(name: str, *variant: str) -> ConfigDict:
    file = Path(__file__).parents[1] / "configs" / f"{name}.py"
    return runpy.run_path(str(file))["get_config"](*variant)


def random_inputs(rows: int, length: int) -> tuple[Policy, Any, Batch]:
    """A policy with fresh parameters, and random frames and actions for it."""
    policy = Policy(**POLICIES[_PRESET.value], dtype=jnp.dtype(_DTYPE.value), remat=_REMAT.value)
    rng = np.random.default_rng(0)
    batch = Batch(
        frames=rng.integers(0, 256, (rows, length, _SIZE.value, _SIZE.value, 3), np.uint8),
        buttons=rng.integers(0, 2, (rows, length, 20), np.uint8),
        camera=rng.normal(0, 3, (rows, length, 2)).astype(np.float32),
        first=np.zeros((rows, length), bool),
        valid=np.ones((rows, length), bool),
    )
    one_frame = batch.frames[:1, :1], batch.first[:1, :1], policy.initial_memory(1)
    params = jax.jit(policy.init)(jax.random.key(0), *one_frame)["params"]
    return policy, params, jax.device_put(batch)


def policy_row(rate: float, frames: int, unit: str, compile_seconds: float) -> Row:
    return {"preset": _PRESET.value, "dtype": _DTYPE.value, "remat": str(_REMAT.value), "rows": str(_BATCH.value),
            "length": str(frames // _BATCH.value), "frames": f"{_SIZE.value}x{_SIZE.value}",
            "frames/s": f"{rate * frames:,.1f}", unit: f"{1000 / rate:.1f}",
            "compile s": f"{compile_seconds:.1f}", "peak memory MB": f"{peak_memory() / 1e6:,.0f}"}  # fmt: skip


def repeat(run: Callable[[], Any]) -> float:
    """Runs per second; each is waited for."""
    jax.block_until_ready(run())
    start, count = time.monotonic(), 0
    while time.monotonic() - start < _SECONDS.value:
        jax.block_until_ready(run())
        count += 1
    return count / (time.monotonic() - start)


def finish(run: Callable[..., Any], *inputs: Any) -> Any:
    return jax.block_until_ready(run(*inputs))


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    start = time.monotonic()
    return run(), time.monotonic() - start


def peak_memory() -> int:
    """Bytes: of the accelerator where it says so, else of this process."""
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def machine() -> str:
    """What the figures were measured on."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("jax", "flax", "grain", "numpy"))
    return (f"{jax.device_count()} x {jax.devices()[0].device_kind}, {os.cpu_count()} cores ({platform.machine()}), "
            f"Python {platform.python_version()}, {versions}")  # fmt: skip


def print_table(rows: list[Row]) -> None:
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in rows[0]}
    for row in [{name: name for name in widths}, *rows]:
        print("  ".join(row[name].rjust(width) for name, width in widths.items()))


def main(arguments: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)
    if len(arguments) != 2 or arguments[1] not in BENCHES:
        sys.exit(f"error: say what to measure: python launch/bench.py {{{','.join(BENCHES)}}}")
    print(machine())
    try:
        print_table(BENCHES[arguments[1]]())
    except (DatasetMissingError, DatasetDamagedError, BrokenRecording, RecordError, PrepareError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    app.run(main)
