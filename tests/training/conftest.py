"""Small training runs through the launcher's own code."""

import importlib.util
import sys
from pathlib import Path

import pytest

from configs.foundation import get_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def small_config(dataset_dir, tmp_path):
    """The real configuration, shrunk: the tiny policy, 12 steps of 8 rows of 6 frames."""
    config = get_config("71m")
    config.workdir = str(tmp_path / "run")
    config.model.update(preset="tiny", dtype="float32", remat=False)
    config.data.update(train=str(dataset_dir), valid=str(dataset_dir), batch=8, length=6, workers=0)
    config.optimizer.warmup_steps = 2
    config.update(steps=12, log_every=1, evaluate_every=6, save_every=4)
    return config


@pytest.fixture(scope="session")
def launcher():
    """launch/train.py as a module."""
    spec = importlib.util.spec_from_file_location("launch_train", ROOT / "launch" / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["launch_train"] = module
    spec.loader.exec_module(module)
    return module
