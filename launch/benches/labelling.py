"""Benchmark of labelling long videos by an inverse dynamics model."""

import io
import time
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from benches.measuring import DTYPE, SIZE, Row, alternate

from vpt_jax.actions.minerl import MINERL
from vpt_jax.configs import label as label_config
from vpt_jax.data.clips import Clip, FrameSettings, encode_video
from vpt_jax.labelling.model import MODES, label_spans
from vpt_jax.labelling.overlap import StageSeconds
from vpt_jax.labelling.plan import EncodedVideo, Plan, Spans
from vpt_jax.labelling.steps import Labeller
from vpt_jax.models.idm import TEMPORAL_RADIUS, InverseDynamicsModel
from vpt_jax.models.presets import IDMS
from vpt_jax.recording import RecordingWriter
from vpt_jax.training.checkpoints import TrainedIDM

_IDM = flags.DEFINE_enum("idm", "tiny", list(IDMS), "Size of the inverse dynamics model.")
_ROWS = flags.DEFINE_integer("rows", 1, "Spans labelled at a time.")
_WINDOWS = flags.DEFINE_integer("windows", 15, "Windows of a span.")
_STEPS = flags.DEFINE_integer("steps", 3, "Steps of the job whose stages are measured, after one to compile.")

ERRORS: tuple[type[Exception], ...] = ()
WINDOW = 128  # frames


def label() -> list[Row]:
    """Speed of each mode, and the share of a job's time of each stage.

    The model alone is measured in turns, under the same machine load. The job reads a decoded video from disk and
    writes its labels, as `launch/label.py` does.
    """
    idm = InverseDynamicsModel(**IDMS[_IDM.value], dtype=jnp.dtype(DTYPE.value))
    rows, windows, size = _ROWS.value, _WINDOWS.value, SIZE.value
    frames = (windows + 1) * WINDOW // 2
    pixels = np.random.default_rng(0).integers(0, 256, (rows, frames + 2 * TEMPORAL_RADIUS, size, size, 3), np.uint8)
    spans = jax.device_put(Spans(pixels, np.ones((rows, frames), bool), np.zeros((rows, 2), int)))
    params = jax.jit(idm.init)(jax.random.key(0), pixels[:1, :1])["params"]
    runs = {}
    for mode in MODES:
        step = jax.jit(partial(label_spans, idm, WINDOW, mode, "argmax"))
        runs[mode] = partial(step.lower(params, jax.random.key(1), spans).compile(), params, jax.random.key(1), spans)
    kept = rows * windows * WINDOW // 2
    rates = {mode: kept * rate for mode, rate in alternate(runs).items()}
    with TemporaryDirectory() as folder:
        video, decoded_rate = decode_video(Path(folder), kept * jax.local_device_count() * (_STEPS.value + 1))
        jobs = {mode: run_job(Path(folder, mode), TrainedIDM(idm, params, (size, size, 3), WINDOW, 0), video, mode)
                for mode in MODES}  # fmt: skip
    return [
        {"mode": mode, "model": _IDM.value, "frames": f"{size}x{size}", "frames/s": f"{rates[mode]:,.1f}",
         "against exact": f"{rates[mode] / rates['exact']:.2f}"} | _describe_job(jobs[mode], decoded_rate)
        for mode in MODES
    ]  # fmt: skip


def _describe_job(times: StageSeconds, decoded_rate: float) -> Row:
    """Speed of a job, and the share of its time of each stage, if one core decodes its videos meanwhile."""
    rate = times.frames / times.wall
    shares = {"decoding": rate / decoded_rate, **times.shares()}
    return {"job frames/s": f"{rate:,.1f}", "decoded/s by a core": f"{decoded_rate:,.0f}",
            "readers": str(times.readers), **{stage: f"{share:.1%}" for stage, share in shares.items()}}  # fmt: skip


def decode_video(folder: Path, frames: int) -> tuple[EncodedVideo, float]:
    """Makes a video of moving patterns and decodes it; returns it, and the frames per second of decoding."""
    size = SIZE.value
    y, x = np.mgrid[:size, :size]
    null = MINERL.to_env(np.zeros(len(MINERL.keys), np.uint8), np.zeros(2, np.float32))
    with RecordingWriter(folder / "video", size, size) as recording:
        for i in range(frames):
            picture = np.stack([(3 * x + 5 * i) % 256, (2 * y + 3 * i) % 256, (x * y // 16 + i) % 256], -1)
            recording.write(picture.astype(np.uint8), null)
    settings = FrameSettings(size, size, (1, 1), 32, 90)
    start = time.monotonic()
    count = encode_video(Clip(folder / "video.mp4"), folder / "0000000", settings)
    return EncodedVideo(folder / "0000000.records", count, 32), count / (time.monotonic() - start)


def run_job(folder: Path, idm: TrainedIDM, video: EncodedVideo, mode: str) -> StageSeconds:
    """Labels a decoded video from disk to disk; returns the seconds of the stages, without those of compiling."""
    config = label_config.get_config()
    config.update(mode=mode, choice="argmax")
    labeller = Labeller(config, idm)
    devices = jax.local_device_count()
    plan = Plan((video,), WINDOW, _WINDOWS.value, -(-_ROWS.value // devices) * devices)
    with redirect_stderr(io.StringIO()):  # the progress bar
        labeller.label_steps(plan, folder, 1)
        labeller.times = StageSeconds(readers=labeller.times.readers)
        labeller.label_steps(plan, folder, plan.steps)
    return labeller.times
