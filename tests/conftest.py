"""Setup of all tests: eight simulated devices, one compilation cache, shape checks, a small prepared dataset.

Variables that JAX reads at start are set here; processes that tests start and workers of pytest-xdist inherit them.
"""

import os
import shutil
import signal
import tempfile

from tests import checked_types
from tests.programs import ROOT, xla_flags

_CACHE = "JAX_COMPILATION_CACHE_DIR"
_own_cache = None if _CACHE in os.environ else tempfile.mkdtemp(prefix="vpt_jax-compiled-")
if _own_cache:
    os.environ[_CACHE] = _own_cache  # programs that several tests or processes need are compiled once
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("XLA_FLAGS", xla_flags(devices=8))

checked_types.install()

import numpy as np
import pytest

from configs.prepare import get_config
from vpt_jax.actions.minerl import BUTTON_INDEX, MINERL
from vpt_jax.data.prepare import prepare
from vpt_jax.recording import RecordingWriter

# A process in the background of a script ignores SIGINT, and so would the programs to which tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)


_SLOWEST = ("training/ppg", "labelling", "envs", "training", "models")  # folders of tests/ that take most time


def pytest_collection_modifyitems(items):
    """Runs the slowest folders first, so that all workers are busy until the end."""
    folder_of = {item: item.path.relative_to(ROOT / "tests").parent.as_posix() for item in items}
    items.sort(key=lambda item: _SLOWEST.index(folder_of[item]) if folder_of[item] in _SLOWEST else len(_SLOWEST))


def pytest_unconfigure():
    """Removes the compilation cache in the process that created it: under pytest-xdist, the controller."""
    if _own_cache:
        shutil.rmtree(_own_cache, ignore_errors=True)


FRAME_SIZE = 32


def record_episode(path, seed, frames):
    """Records random play with held keys; the picture moves with the camera and brightens while attacking."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:FRAME_SIZE, :FRAME_SIZE]
    buttons, yaw = np.zeros(20, np.uint8), 0.0
    keys = [BUTTON_INDEX[key] for key in ("attack", "forward", "jump", "left")]
    with RecordingWriter(path, FRAME_SIZE, FRAME_SIZE) as recording:
        for i in range(frames):
            if i % 6 == 0:
                buttons[keys] = rng.random(4) < 0.3
            camera = np.zeros(2, np.float32) if i % 4 == 0 else rng.normal(0, 2, 2).astype(np.float32)
            yaw += camera[1]
            frame = np.stack([(8 * x + 5 * yaw) % 256, (8 * y + 7 * i) % 256, 0 * x + 160 * buttons[0]], -1)
            recording.write(frame.astype(np.uint8), MINERL.to_env(buttons, camera))


def files(folder):
    """The bytes of all files in a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def dataset_dir(tmp_path_factory):
    """Seven training and two validation episodes of 32x32 frames, in records of 8 frames."""
    folder = tmp_path_factory.mktemp("small")
    for split, lengths in {"train": (61, 40, 75, 90, 33, 52, 49), "valid": (45, 38)}.items():
        (folder / "recordings" / split).mkdir(parents=True)
        for number, frames in enumerate(lengths):
            record_episode(folder / "recordings" / split / f"{split}{number}", len(split) * 100 + number, frames)
    config = get_config()
    config.update(recordings=str(folder / "recordings"), out=str(folder / "dataset"), chunk_frames=8, workers=1)
    config.update(height=FRAME_SIZE, width=FRAME_SIZE)
    return prepare(config)
