"""Videos of many kinds, models that label them, and jobs as a user starts them, or in this process."""

import os
from concurrent.futures import Future
from contextlib import nullcontext
from fractions import Fraction
from functools import cache, partial

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import foundation, idm
from configs.label import get_config
from tests.checkpoint_maker import write_checkpoint
from vpt_jax.data import dataset
from vpt_jax.labelling import job, steps
from vpt_jax.models.presets import make_idm, make_policy
from vpt_jax.training.checkpoints import load_idm

from ..programs import Program, xla_flags
from ..training.conftest import Launcher

SIZE, WINDOW, CHUNK = 32, 8, 8


def save_checkpoint(workdir, stage, module, config, *inputs, length=WINDOW):
    """Writes a checkpoint of random parameters, which is quicker than training."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1, SIZE, SIZE, 3), jnp.uint8), *inputs)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), shapes["params"])
    assert config.stage == stage
    return write_checkpoint(workdir, params, config, SIZE, length, step=2)


@pytest.fixture(scope="session")
def idm_dir(tmp_path_factory):
    config = idm.get_config("demo")
    config.model.preset = "nano"
    return save_checkpoint(tmp_path_factory.mktemp("idm"), "idm", make_idm(config.model), config)


@pytest.fixture(scope="session")
def policy_dir(tmp_path_factory):
    config = foundation.get_config("demo")
    config.model.preset = "nano"
    policy = make_policy(config.model)
    inputs = jnp.zeros((1, 1), bool), policy.initial_memory(1)
    return save_checkpoint(tmp_path_factory.mktemp("policy"), "policy", policy, config, *inputs)


def pictures(count, height, width):
    """Coarse random patterns, all distinct."""
    cells = np.random.default_rng(height * width).integers(0, 256, (count, 4, 4, 3))
    rows, columns = np.arange(height) * 4 // height, np.arange(width) * 4 // width
    return [frame[rows][:, columns].astype(np.uint8) for frame in cells]


def write_video(path, codec, pixels, frames, rate=20, times=None):
    """Writes a video of a constant rate, or with its frames at these times, in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unit = Fraction(1, 1000) if times else 1 / Fraction(rate)
    container_format = {"format": "mp4"} if path.suffix == ".MP4" else {}
    with av.open(str(path), "w", **container_format) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        stream.codec_context.time_base = unit
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = times[i] if times else i, unit
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


GOOD = {  # name in the dataset: frames at 20 per second
    "long": 90,
    "one frame": 1,
    "one window": 8,
    "some/deeper/thirty": 40,
    "some/odd": 26,
    "some/portrait": 24,
    "some/uneven": 23,
}
BROKEN = ("bad/cut.mp4", "bad/empty.webm", "bad/noise.mkv")


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    write_video(folder / "long.mp4", "libx264", "yuv420p", pictures(90, 72, 128))
    write_video(folder / "one frame.avi", "mpeg4", "yuv420p", pictures(1, 48, 64))
    write_video(folder / "one window.mov", "libx264", "yuv420p", pictures(8, 54, 96))
    write_video(folder / "some/deeper/thirty.MP4", "libx264", "yuv420p", pictures(60, 48, 64), rate=30)
    write_video(folder / "some/odd.mkv", "ffv1", "bgr0", pictures(31, 61, 37), rate=24)
    write_video(folder / "some/portrait.webm", "libvpx", "yuv420p", pictures(12, 64, 36), rate=10)
    in_ms = [0, 30, 95, 100, 260, 300, 301, 500, 950, 1000]
    write_video(folder / "some/uneven.mkv", "ffv1", "bgr0", pictures(10, 36, 64), times=in_ms)
    (folder / "some/notes.txt").write_text("no video")
    (folder / "bad").mkdir()
    (folder / "bad/empty.webm").touch()
    (folder / "bad/noise.mkv").write_bytes(np.random.default_rng(0).bytes(5000))
    whole = (folder / "long.mp4").read_bytes()
    (folder / "bad/cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    return folder


def settings(videos, idm_dir, out, /, **changes):
    config = get_config()
    config.update(videos=str(videos), idm=str(idm_dir), out=str(out), windows_per_span=2, batch=1, chunk_frames=CHUNK)
    config.update(num_films=1, workers=1, choice="argmax")  # a choice that tests can compute from the model alone
    config.update(changes)
    return config


class LabelLauncher(Launcher):
    """Starts launch/label.py."""

    def __init__(self):
        pass

    def start(self, config):
        """Starts a job with the fields of this config."""
        flags = [f"--config.{name}={value}" for name, value in config.items()]
        return Program("label", flags, os.environ | {"XLA_FLAGS": xla_flags(devices=1)})

    def run(self, config, expected=0):
        return self.finish(self.start(config), expected)


@pytest.fixture(scope="session")
def launcher():
    return LabelLauncher()


@pytest.fixture(scope="session")
def uninterrupted(launcher, videos, idm_dir, tmp_path_factory):
    """The dataset and the output of an uninterrupted job."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    return out, launcher.run(settings(videos, idm_dir, out))


class ThisProcess:
    """Fake pool of worker processes: runs tasks in this process."""

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future


load_once, partial_once = (
    cache(load_idm),
    cache(partial),
)  # JAX then sees equal functions as the same, and compiles them once


@pytest.fixture
def in_process(monkeypatch):
    """Runs jobs in this process; each model is loaded and compiled once."""
    run_in_process(monkeypatch)


def run_in_process(monkeypatch):
    """Applies `in_process` for fixtures of a larger scope."""
    monkeypatch.setattr(job, "worker_pool", lambda workers: nullcontext(ThisProcess()))
    monkeypatch.setattr(job, "load_idm", load_once)
    monkeypatch.setattr(steps, "partial", partial_once)


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def labels_by_name(out):
    index = dataset.load_index(out, "train")
    fields = index.buttons, index.camera, index.confidence
    return {name: [field[index.rows(i)] for field in fields] for i, name in enumerate(index.names)}


def assert_same_labels(out, other):
    """Compares the labels of all videos; sums in another order may change the last digits of a confidence."""
    labels, expected = labels_by_name(out), labels_by_name(other)
    assert labels.keys() == expected.keys()
    for name, (buttons, camera, confidence) in labels.items():
        np.testing.assert_array_equal(buttons, expected[name][0])
        np.testing.assert_array_equal(camera, expected[name][1])
        np.testing.assert_allclose(confidence, expected[name][2], rtol=1e-3)
