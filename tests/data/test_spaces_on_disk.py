"""Datasets of other action spaces on disk: records, index and streams."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.actions.spaces import LARGE, SMALL
from tests.data.tiny import write_dataset
from vpt_jax.data.dataset import check_dataset, load_index, open_records, parse_chunk, read_records, shard_path
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.streams import Stream, StreamSettings

KEYS_ONLY = replace(SMALL, name="keys only", axes=())


@pytest.mark.parametrize("space", [SMALL, LARGE, KEYS_ONLY], ids=lambda space: space.name)
def test_actions_are_read_back(space, tmp_path):
    folder = write_dataset(tmp_path / "data", [9, 6], space=space)
    check_dataset(folder)
    index, records = load_index(folder, "train"), open_records(folder, "train")
    assert index.space == space
    stored = [parse_chunk(record, space) for record in read_records(shard_path(folder, "train", 0, 1))]
    assert len(records) == len(stored) == 5
    for name, expected in (("buttons", index.buttons), ("camera", index.camera)):
        np.testing.assert_array_equal(np.concatenate([values[name] for values in stored]), expected)
    batch = Stream(StreamSettings(str(folder), "train", 2, 4, nulls="keep", shuffle=False)).read(0, [0, 1])
    np.testing.assert_array_equal(batch.buttons[0], index.buttons[:4])
    np.testing.assert_array_equal(batch.camera[0], index.camera[:4])


def test_a_missing_or_other_space_is_damage(tmp_path):
    folder = write_dataset(tmp_path / "data", [9], space=SMALL)
    (folder / "action_space.json").unlink()
    with pytest.raises(DatasetDamagedError, match=r"action_space.json is missing"):
        load_index(folder, "train")
    other = write_dataset(tmp_path / "other", [9], space=LARGE)
    shutil.copy(other / "action_space.json", folder)
    with pytest.raises(DatasetDamagedError, match=r"buttons.npy is damaged"):
        load_index(folder, "train")
    (folder / "action_space.json").write_text("{")
    with pytest.raises(DatasetDamagedError, match=r"action_space.json is damaged"):
        load_index(folder, "train")
