"""How fast the parts are on this machine: frames/s, milliseconds and peak memory, with versions and settings.

    python launch/bench.py loader --data=DATASET
    python launch/bench.py decode --recordings=RECORDINGS/train
    python launch/bench.py train_step --preset=1x --batch=2 --length=16
    python launch/bench.py gradient --preset=1x --batch=1 --length=16 --against=torch
    python launch/bench.py act --preset=1x --batch=1
    python launch/bench.py label

`loader` reads and decodes a dataset as training does; `decode` compares image codecs on frames of recordings;
`train_step` is one update on random frames, `forward` and `gradient` are its parts, `act` is one frame after another,
as in play; with --against=torch the last three are compared with the same policy in PyTorch. `label` compares the two
ways to label long videos by an inverse dynamics model. What is compared runs in turns. Without --data or --recordings,
a little play of the embedded game is recorded and prepared first, at 128x128, under --workdir.
"""

import importlib.metadata
import os
import platform
import resource
import runpy
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
_AGAINST = flags.DEFINE_enum("against", "none", ["none", "torch"], "Also measure the policy written in PyTorch.")
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
    """Updates on random frames that lie on the device."""
    policy, params, batch = random_inputs(_BATCH.value, _LENGTH.value)
    optimizer = adam(linear_schedule(1e-4, 10, 1000), 0.0625, 5.0)
    state = initial_state(params, optimizer, policy.initial_memory(_BATCH.value), jax.random.PRNGKey(0))
    step = jax.jit(partial(train_step, partial(cloning_loss, policy), optimizer), donate_argnums=0)
    compiled, seconds = timed(lambda: step.lower(state, batch).compile())

    def update() -> Any:
        nonlocal state
        state, metrics = compiled(state, batch)
        return metrics

    return policy_rows({"jax": update}, _LENGTH.value, seconds)


def forward() -> list[Row]:
    """Windows through the policy, without gradients."""
    policy, params, batch = random_inputs(_BATCH.value, _LENGTH.value)
    step = jax.jit(partial(outputs, policy))
    compiled, seconds = timed(lambda: step.lower(params, batch, policy.initial_memory(_BATCH.value)).compile())
    memory = policy.initial_memory(_BATCH.value)
    runs = {"jax": lambda: compiled(params, batch, memory)[0]}
    if rival := make_rival(policy, params, batch):
        runs["torch"] = rival.forward
    return policy_rows(runs, _LENGTH.value, seconds)


def gradient() -> list[Row]:
    """Windows through the policy and back, without an update."""
    policy, params, batch = random_inputs(_BATCH.value, _LENGTH.value)
    memory = policy.initial_memory(_BATCH.value)
    total = jax.jit(jax.grad(lambda *inputs: sum(of_head.sum() for of_head in outputs(policy, *inputs)[0].values())))
    compiled, seconds = timed(lambda: total.lower(params, batch, memory).compile())
    runs = {"jax": lambda: compiled(params, batch, memory)}
    if rival := make_rival(policy, params, batch):
        runs["torch"] = rival.gradient
    return policy_rows(runs, _LENGTH.value, seconds)


def act() -> list[Row]:
    """Frames shown to the policy one at a time, memory carried on."""
    policy, params, batch = random_inputs(_BATCH.value, 1)
    ring = policy.initial_ring(_BATCH.value)
    step = jax.jit(partial(outputs, policy), donate_argnums=2)
    compiled, seconds = timed(lambda: step.lower(params, batch, ring).compile())

    def play() -> Any:
        nonlocal ring
        answer, ring = compiled(params, batch, ring)
        return answer

    runs = {"jax": play}
    if rival := make_rival(policy, params, batch):
        runs["torch"] = rival.forward
    return policy_rows(runs, 1, seconds)


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
        runs[mode] = partial(step.lower(params, jax.random.key(1), spans).compile(), params, jax.random.key(1), spans)
    kept = rows * LABEL_WINDOWS * LABEL_WINDOW // 2
    rates = {mode: kept * rate for mode, rate in alternate(runs).items()}
    return [
        {"mode": mode, "model": _IDM.value, "frames": f"{size}x{size}", "frames/s": f"{rate:,.1f}",
         "against exact": f"{rate / rates['exact']:.2f}"}
        for mode, rate in rates.items()
    ]  # fmt: skip


BENCHES: dict[str, Callable[[], list[Row]]] = {
    "loader": loader, "decode": decode, "train_step": train_steps, "forward": forward,
    "gradient": gradient, "act": act, "label": label,
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


def outputs(policy: Policy, params: Any, batch: Batch, memory: Any) -> tuple[dict[str, Any], Any]:
    """Logits, the value among them, and the next memory."""
    output = policy.apply({"params": params}, batch.frames, batch.first, memory)
    return {**output.logits, "value": output.value}, output.memory


def make_rival(policy: Policy, params: Any, batch: Batch) -> Any:
    """The same in PyTorch, if it was asked for. It must answer as ours does."""
    if _AGAINST.value == "none":
        return None
    try:
        from torch_policy import TorchPolicy  # here, since only this needs PyTorch
    except ModuleNotFoundError as error:
        sys.exit(f"error: --against=torch needs PyTorch ({error}): pip install torch")
    memory = policy.initial_memory(len(batch.frames))
    ours, _ = outputs(policy, params, batch, memory._replace(mask=jnp.ones_like(memory.mask)))
    rival = TorchPolicy(policy, params, np.asarray(batch.frames))
    for name, theirs in rival.forward().items():
        np.testing.assert_allclose(theirs.numpy().reshape(ours[name].shape), ours[name], atol=1e-3, err_msg=name)
    return rival


def policy_rows(runs: Mapping[str, Callable[[], Any]], length: int, compile_seconds: float) -> list[Row]:
    """A row for every contestant; they ran in turns."""
    rates, frames = alternate(runs), _BATCH.value * length
    return [
        {"by": name, "preset": _PRESET.value, "dtype": _DTYPE.value, "remat": str(_REMAT.value),
         "rows": str(_BATCH.value), "length": str(length), "frames": f"{_SIZE.value}x{_SIZE.value}",
         "frames/s": f"{rate * frames:,.1f}", "ms": f"{1000 / rate:.1f}", "jax's speed": f"{rates['jax'] / rate:.2f}",
         "compile s": f"{compile_seconds:.1f}", "peak memory MB": f"{peak_memory() / 1e6:,.0f}"}
        for name, rate in rates.items()
    ]  # fmt: skip


def alternate(runs: Mapping[str, Callable[[], Any]]) -> dict[str, float]:
    """Runs per second of each, in turns, so that all meet the same machine; each run is waited for."""
    seconds = dict.fromkeys(runs, 0.0)
    counts = dict.fromkeys(runs, 0)
    for run in runs.values():
        jax.block_until_ready(run())
    while min(seconds.values()) < _SECONDS.value:
        for name, run in runs.items():
            _, taken = timed(partial(finish, run))
            seconds[name], counts[name] = seconds[name] + taken, counts[name] + 1
    return {name: counts[name] / seconds[name] for name in runs}


def repeat(run: Callable[[], Any]) -> float:
    """Runs per second; each is waited for."""
    return alternate({"it": run})["it"]


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
