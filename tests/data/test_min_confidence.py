"""Labels of low confidence: their frames stay in the stream, and their loss is masked."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from configs import foundation
from vpt_jax.data.dataset import load_index
from vpt_jax.data.entries import DatasetEntry
from vpt_jax.data.streams import NULL_RULES, Stream, StreamSettings
from vpt_jax.programs.supervised import open_stream
from vpt_jax.system.errors import ConfigError

THRESHOLD = 0.4


@pytest.fixture(scope="module")
def settings(dataset_dir, tmp_path_factory):
    """A dataset with the frames of another, and labels of random confidence."""
    folder = tmp_path_factory.mktemp("labelled") / "dataset"
    shutil.copytree(dataset_dir, folder)
    rows = len(load_index(dataset_dir, "train").confidence)
    np.save(folder / "index" / "train" / "confidence.npy", np.random.default_rng(0).random(rows).astype(np.float32))
    np.save(folder / "index" / "train" / "labels.npy", np.array("predicted"))
    return StreamSettings(str(folder), "train", batch=3, length=10, seed=4)


@pytest.mark.parametrize("nulls", NULL_RULES)
def test_only_the_loss_of_uncertain_labels_is_masked(settings, nulls):
    every, sure = (Stream(replace(settings, nulls=nulls, min_confidence=least)) for least in (0.0, THRESHOLD))
    assert every.steps_per_epoch == sure.steps_per_epoch
    counted = 0
    for step in range(every.steps_per_epoch):
        all_batch, batch = (stream.read(step, range(3)) for stream in (every, sure))
        same = batch._replace(valid=all_batch.valid)
        jax.tree.map(np.testing.assert_array_equal, same, all_batch)
        for row in range(3):
            window = sure.window(step, row)
            confident = sure.index.confidence[sure.index.starts[window.episode] + window.frame] >= THRESHOLD
            np.testing.assert_array_equal(batch.valid[row], all_batch.valid[row] & confident)
        counted += batch.valid.sum()
    scored = sum(len(sure.scored(episode)) for episode in range(len(sure.index.names)))
    assert 0 < counted == scored < sum(len(every.scored(episode)) for episode in range(len(every.index.names)))


def test_confidence_equal_to_the_threshold_counts(settings):
    least = float(np.sort(load_index(settings.dataset, "train").confidence)[100])  # as `score` prints it
    stream = Stream(replace(settings, nulls="keep", min_confidence=least))
    assert sum(len(stream.scored(i)) for i in range(7)) == 400 - 100


def test_old_runs_resume_and_others_are_told_apart(settings):
    assert "min_confidence" not in Stream(settings).fingerprint()
    assert Stream(replace(settings, min_confidence=0.5)).fingerprint()["min_confidence"] == 0.5


def test_a_recorded_dataset_is_not_masked(dataset_dir, settings):
    recorded = Stream(replace(settings, dataset=str(dataset_dir), nulls="keep", min_confidence=0.99))
    assert sum(len(recorded.scored(i)) for i in range(7)) == recorded.num_frames


@pytest.mark.parametrize(("least", "message"), [(1.5, "from 0 to 1"), (-0.1, "from 0 to 1"), (1.0, "lower it")])
def test_impossible_thresholds_are_refused(settings, least, message):
    with pytest.raises(ValueError, match=message):
        Stream(replace(settings, min_confidence=least))


def test_only_training_play_is_masked(settings):
    config = foundation.get_config("demo")
    config.data.min_confidence = THRESHOLD
    entry = DatasetEntry("", settings.dataset)
    train, valid = (open_stream(config, entry, split, rows=2, encoder=None).settings for split in ("train", "valid"))
    assert (train.min_confidence, valid.min_confidence) == (THRESHOLD, 0)
    config.data.min_confidence = 1.0
    with pytest.raises(ConfigError, match=r"config.data: .*no label has a confidence"):
        open_stream(config, entry, "train", rows=2, encoder=None)
