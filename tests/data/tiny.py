"""Datasets of a few tiny frames, written without recordings; and ways to damage them."""

import json
from functools import partial

import numpy as np

from vpt_jax.actions.minerl import MINERL
from vpt_jax.data import dataset
from vpt_jax.data.codecs import encode_chunk

CHUNK, SIZE = 4, 8


def serialized(name, pictures, chunk, first, total, actions, space=MINERL, **changes):
    """Serializes a record of some frames of an episode, with some values changed."""
    data, ends = encode_chunk(pictures)
    values = {
        "frames": data,
        "frame_ends": ends,
        "buttons": actions[0],
        "camera": actions[1],
        "confidence": np.ones(len(pictures), np.float32),
        "labels": "recorded",
        "episode": name,
        "chunk": chunk,
        "first_frame": first,
        "num_frames": total,
    }
    return dataset.serialize_chunk(values | changes, space)


def write_dataset(folder, lengths, shards=1, splits=("train",), record=None, space=MINERL, size=SIZE, seed=0):
    """Writes a dataset of random frames and actions; `lengths`: frames of each episode, in each split.

    `record`: makes the bytes of a record, as `serialized` does. `space`: of the actions. `size`: height and width of
    the frames. `seed`: datasets of another one have other content.
    """
    record = record or partial(serialized, space=space)
    folder.mkdir(parents=True)
    counts = {}
    for split in splits:
        rng = np.random.default_rng(len(split) + 100 * seed)
        records, buttons, cameras = [], [], []
        for number, length in enumerate(lengths):
            buttons.append(rng.integers(0, 2, (length, len(space.keys))).astype(np.uint8))
            moved = rng.normal(0, 3, (length, len(space.axes)))
            cameras.append(moved.astype(np.float32))
            for chunk, first in enumerate(range(0, length, CHUNK)):
                rows = slice(first, first + CHUNK)
                actions = buttons[-1][rows], cameras[-1][rows]
                frames = rng.integers(0, 256, (len(actions[0]), size, size, 3)).astype(np.uint8)
                records.append(record(f"{split}{number}", frames, chunk, first, length, actions))
        parts = np.array_split(np.arange(len(records)), shards)
        for i, part in enumerate(parts):
            dataset.write_records(dataset.shard_path(folder, split, i, shards), [records[n] for n in part])
        names = {f"{split}{number}": length for number, length in enumerate(lengths)}
        ones = [np.ones(length, np.float32) for length in lengths]
        dataset.write_index(folder / "index" / split, names, buttons, cameras, ones, "recorded", CHUNK)
        counts[split] = [len(part) for part in parts]
    dataset.write_metadata(folder, counts, space)
    return folder


def edit_json(file, edit):
    """Changes the value of a JSON file with a function."""
    value = json.loads(file.read_text())
    edit(value)
    file.write_text(json.dumps(value))


def flip(file, place):
    """Flips the lowest bit of the byte at `place`."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)
