"""Datasets of panning views, all episodes distinct; a small IDM; commands that run in this process."""

import shutil
from contextlib import contextmanager
from itertools import pairwise

import cv2
import jax
import numpy as np
import pytest

from configs import data as data_config
from configs import prepare as prepare_config
from vpt_jax.actions.minerl import BUTTON_INDEX, CAMERA, MINERL
from vpt_jax.curation.validation import diff, summarize, validate
from vpt_jax.curation.validation.alignment import FrameLogProbs
from vpt_jax.curation.validation.episodes import read_frames
from vpt_jax.data import prepare
from vpt_jax.models.idm import InverseDynamicsModel
from vpt_jax.recording import RecordingWriter
from vpt_jax.training.checkpoints import TrainedIDM
from vpt_jax.video import VideoWriter, decode

SIZE = 32


def small_idm(size=SIZE, window=8):
    """A model of random parameters that compiles quickly."""
    module = InverseDynamicsModel(temporal_features=4, widths=(4,), features=16, heads=2, layers=1)
    frames = jax.ShapeDtypeStruct((1, 1, size, size, 3), np.uint8)
    shapes = jax.eval_shape(module.init, jax.random.key(0), frames)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), shapes)
    return TrainedIDM(module, params, (size, size, 3), window, 0)


def ideal_log_probs(buttons, camera, probability=0.9):
    """Log-probabilities of a model that gives the correct classes the given probability."""
    log_probs = []
    for chosen, classes in ((buttons, 2), (CAMERA.to_bins(camera), CAMERA.num_bins)):
        one_hot = np.eye(classes)[chosen]
        log_probs.append(
            np.log(one_hot * probability + (1 - one_hot) * (1 - probability) / (classes - 1)).astype(np.float32)
        )
    return FrameLogProbs(*log_probs)


class MotionScorer:
    """Stands in for `EpisodeScorer` where training would take minutes: sees how far the view has turned, and no key.

    The distance between frames is measured by phase correlation; a bin's log-probability is that of a normal
    distribution around it, of a degree.
    """

    def __init__(self, *_):
        pass

    def log_probs(self, episode):
        grey = [
            cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
            for frame in read_frames(episode, 0, episode.frames)
        ]
        window = cv2.createHanningWindow(grey[0].shape[::-1], cv2.CV_32F)
        moved = [cv2.phaseCorrelate(*pair, window)[0][::-1] for pair in pairwise([*grey, grey[-1]])]
        likely = np.exp(-((CAMERA.centres + np.array(moved)[..., None]) ** 2) / 2) + 0.01
        camera = np.log(likely / likely.sum(-1, keepdims=True)).astype(np.float32)
        return FrameLogProbs(np.full((len(grey), 20, 2), -np.log(2), np.float32), camera)


def record(path, seed, frames=160):
    """Records a view that pans over a random picture with the camera; keys are pressed at random."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    world = cv2.resize(rng.integers(0, 256, (60, 60, 3)).astype(np.uint8), (720, 720), interpolation=cv2.INTER_CUBIC)
    buttons, position = np.zeros(20, np.uint8), np.full(2, 300.0)
    with RecordingWriter(path, SIZE, SIZE) as recording:
        for i in range(frames):
            if i % 5 == 0:
                buttons[[BUTTON_INDEX[key] for key in ("attack", "forward", "jump")]] = rng.random(3) < 0.4
            camera = rng.normal(0, 3, 2).astype(np.float32)
            y, x = position.astype(int)
            recording.write(world[y : y + SIZE, x : x + SIZE], MINERL.to_env(buttons, camera))
            position = np.clip(position + camera, 0, 720 - SIZE)


def reencode(source, target, skipped=0):
    """Writes a video again in lower quality, without its first frames and with other keys."""
    with VideoWriter(f"{target}.mp4", SIZE, SIZE, crf=30) as video:
        for number, frame in enumerate(decode(f"{source}.mp4")):
            if number >= skipped:
                video.write(frame)
    lines = source.with_suffix(".jsonl").read_text().splitlines()[skipped:]
    target.with_suffix(".jsonl").write_text("\n".join(line.replace("key.w", "key.s") for line in lines[::-1]) + "\n")


def copy(source, target):
    for suffix in (".mp4", ".jsonl"):
        shutil.copy(f"{source}{suffix}", f"{target}{suffix}")


def make_dataset(recordings, out, **changes):
    config = prepare_config.get_config()
    config.update(recordings=str(recordings), out=str(out), height=SIZE, width=SIZE, workers=1, **changes)
    return prepare.prepare(config)


@contextmanager
def _in_this_process(workers, error_class, in_progress=str):
    yield lambda function, tasks: ((number, function(*task)) for number, task in enumerate(tasks))


@pytest.fixture(autouse=True, scope="package")
def _no_pools():
    """Replaces process pools, which take seconds to start, for the tests of this package alone."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (diff, prepare, summarize, validate):
            patch.setattr(module, "process_runner", _in_this_process)
        yield


@pytest.fixture(scope="package")
def clean(tmp_path_factory):
    """Four training and two validation episodes without defects."""
    folder = tmp_path_factory.mktemp("clean")
    for seed, name in enumerate(("train/a", "train/b", "train/c", "train/d", "valid/e", "valid/f")):
        record(folder / "recordings" / name, seed)
    return make_dataset(folder / "recordings", folder / "dataset")


@pytest.fixture
def settings(tmp_path):
    def make_settings(dataset, **changes):
        config = data_config.get_config()
        config.update(data=str(dataset), out=str(tmp_path / "out"), **changes)
        return config

    return make_settings
