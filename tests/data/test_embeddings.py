"""Embeddings of an interrupted run: recomputed, resumed, or rejected."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import files
from vpt_jax.data.embeddings import EmbeddedStream, Encoder, write_embeddings
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.streams import StreamSettings

from .tiny import write_dataset

ENCODER = Encoder(lambda frames: frames.reshape(len(frames), -1)[:, :3].astype(np.float32), "digest", 3)


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    data = write_dataset(tmp_path_factory.mktemp("data") / "data", [50, 90])
    return StreamSettings(str(data), "train", batch=1, length=4, nulls="keep")


@pytest.fixture
def folder(settings, tmp_path):
    write_embeddings(settings, ENCODER, tmp_path / "made")
    return tmp_path / "made"


def test_damaged_embeddings_are_recomputed(settings, folder):
    """Each of the two files emptied, halved, of zeros, or of another shape (attack H2)."""
    whole = files(folder)
    assert set(whole) == {"train.npy", "train.json"}
    for name, content in whole.items():
        for damaged in (b"", content[: len(content) // 2], bytes(len(content))):
            (folder / name).write_bytes(damaged)
            write_embeddings(settings, ENCODER, folder)
            assert files(folder) == whole
    np.save(folder / "train.npy", np.zeros((139, 3), np.float32))
    write_embeddings(settings, ENCODER, folder)
    (folder / "train.json").write_text(json.dumps(json.loads(whole["train.json"]) | {"done": 10**6}))
    write_embeddings(settings, ENCODER, folder)
    assert files(folder) == whole


def test_embeddings_that_do_not_fit_the_dataset_are_refused(settings, folder):
    """Missing, cut, too few, of another type or rank (attack H2, L4)."""
    assert EmbeddedStream(settings, folder, "digest").read(0, [0]).frames.shape == (1, 4, 3)
    content = (folder / "train.npy").read_bytes()
    for damaged in (None, b"", content[:500]):
        (folder / "train.npy").unlink() if damaged is None else (folder / "train.npy").write_bytes(damaged)
        with pytest.raises(DatasetDamagedError, match=r"train\.npy is damaged, or not of the 140 frames"):
            EmbeddedStream(settings, folder, "digest")
    for rows in (np.zeros((139, 3), np.float32), np.zeros((140, 3)), np.zeros(140, np.float32)):
        np.save(folder / "train.npy", rows)
        with pytest.raises(DatasetDamagedError, match="not of the 140 frames"):
            EmbeddedStream(replace(settings, seed=1), folder, "digest")
