"""Labelled datasets of a few frames, of MineRL's action space and of another."""

import numpy as np
import pytest

from configs import data as data_config
from tests.data.tiny import CHUNK
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.quantizer import AxisQuantizer
from vpt_jax.actions.space import ActionSpace, Axis
from vpt_jax.data import dataset
from vpt_jax.data.codecs import encode_chunk

OTHER = ActionSpace(
    name="another game",
    keys=("w", "fire", "left_shift", "mouse.right"),
    axes=(Axis("turn", "counts", AxisQuantizer(maximum=100, bin_size=20)),),
)
SPACES = {"minerl": MINERL, "other": OTHER}
BINDINGS = {"minerl": "", "other": "fire=mouse.left,turn=mouse.x"}
EPISODES = {"train": {"a": 45, "sub/b@3-20": 17}, "valid": {"c": 5}}


def write_labels(folder, space, size=(16, 24)):
    """Writes a dataset of smooth frames and random labels."""
    folder.mkdir()
    counts = {}
    for number, (split, lengths) in enumerate(EPISODES.items()):
        rng = np.random.default_rng(number)
        records, rows = [], []
        for name, length in lengths.items():
            held = rng.integers(0, 2, (length, len(space.keys))).astype(np.uint8)
            moved = rng.normal(0, 3, (length, len(space.axes))).astype(np.float32)
            moved[rng.random(length) < 0.3] = 0
            confidence = rng.random(length).astype(np.float32)
            rows.append((held, moved, confidence))
            for chunk, first in enumerate(range(0, length, CHUNK)):
                part = slice(first, first + CHUNK)
                count = len(held[part])
                data, ends = encode_chunk(frame(size, len(records) * CHUNK + i) for i in range(count))
                values = {
                    "frames": data, "frame_ends": ends, "buttons": held[part], "camera": moved[part],
                    "confidence": confidence[part], "labels": "predicted", "episode": name, "chunk": chunk,
                    "first_frame": first, "num_frames": length,
                }  # fmt: skip
                records.append(dataset.serialize_chunk(values, space))
        dataset.write_records(dataset.shard_path(folder, split, 0, 1), records)
        dataset.write_index(folder / "index" / split, lengths, *zip(*rows, strict=True), "predicted", CHUNK)
        counts[split] = [len(records)]
    dataset.write_metadata(folder, counts, space)
    return folder


def frame(size, number):
    y, x = np.mgrid[: size[0], : size[1]]
    return np.stack([x * 9 % 256, y * 11 % 256, 0 * x + number * 3 % 256], -1).astype(np.uint8)


@pytest.fixture(scope="session", params=SPACES)
def labels(request, tmp_path_factory):
    """Name of a space, and a dataset of labels in it."""
    return request.param, write_labels(tmp_path_factory.mktemp("labels") / "data", SPACES[request.param])


@pytest.fixture
def settings(tmp_path):
    """Makes a config of the command; without loss, in this process, unless changed."""

    def make(data, **changes):
        config = data_config.get_config()
        config.update(data=str(data), out=str(tmp_path / "out"), workers=1, crf=0)
        config.update(changes)
        return config

    return make
