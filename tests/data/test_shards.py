"""Readers reject a dataset with inconsistent metadata, index and shards, and keep a bounded number of shards open."""

import errno
import gc
import os
import pickle
import resource
import shutil
from contextlib import contextmanager, suppress

import numpy as np
import pytest
import tensorflow_datasets as tfds

from vpt_jax.data import dataset, shards
from vpt_jax.data.errors import DatasetDamagedError, OpenFilesError
from vpt_jax.data.streams import Stream, StreamSettings, batches

from .tiny import CHUNK, edit_json, flip, serialized, write_dataset


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Two episodes of two records each, and one of one, in three shards of two, two and one."""
    return write_dataset(tmp_path_factory.mktemp("small") / "data", [7, 8, 3], shards=3)


def shard(folder, number=0):
    return dataset.shard_path(folder, "train", number, 3)


def split_of(folder, edit):
    edit_json(folder / "dataset_info.json", lambda info: edit(info["splits"][0]))


DISAGREEMENTS = {
    "a shard is missing": lambda data: shard(data).unlink(),
    "a shard is empty": lambda data: shard(data, 1).write_bytes(b""),
    "a shard is half": lambda data: shard(data, 2).write_bytes(shard(data, 2).read_bytes()[:30_000]),
    "a shard is another": lambda data: shutil.copy(shard(data, 2), shard(data, 0)),
    "two shards are exchanged": lambda data: (
        shard(data, 0).rename(data / "x"),
        shard(data, 2).rename(shard(data, 0)),
        (data / "x").rename(shard(data, 2)),
    ),
    "two shards of as many records are exchanged": lambda data: (
        shard(data, 0).rename(data / "x"),
        shard(data, 1).rename(shard(data, 0)),
        (data / "x").rename(shard(data, 1)),
    ),
    "records are missing": lambda data: split_of(data, lambda split: split.update(shardLengths=["2", "1", "1"])),
    "records are counted elsewhere": lambda data: split_of(data, lambda s: s.update(shardLengths=["1", "3", "1"])),
    "a split is unknown": lambda data: split_of(data, lambda split: split.update(name="other")),
    "an episode is missing in the index": lambda data: np.save(data / "index/train/lengths.npy", [7, 8]),
    "the index is of other chunks": lambda data: np.save(data / "index/train/chunk_frames.npy", np.int64(5)),
    "an episode is longer": lambda data: np.save(data / "index/train/lengths.npy", [7, 7, 4]),
    "names are exchanged": lambda data: np.save(data / "index/train/names.npy", np.array(["train1", "train0", "b"])),
}


def read_all(data):
    stream = Stream(StreamSettings(str(data), "train", batch=1, length=4, nulls="keep"))
    for step in range(stream.steps_per_epoch):
        stream.read(step, [0])


@pytest.mark.parametrize("case", DISAGREEMENTS)
def test_an_inconsistent_dataset_is_refused(small, tmp_path, case):
    """Frames and actions are never mismatched (attack H2)."""
    data = shutil.copytree(small, tmp_path / "data")
    DISAGREEMENTS[case](data)
    with pytest.raises(DatasetDamagedError, match=str(data)):
        read_all(data)


def test_inconsistent_counts_are_refused_before_a_frame_is_read(small, tmp_path):
    """Errors that need no open shard are raised at the start, not after hours (attack H2)."""
    for case in (*list(DISAGREEMENTS)[:3], "records are missing", "an episode is missing in the index"):
        data = shutil.copytree(small, tmp_path / "data")
        DISAGREEMENTS[case](data)
        with pytest.raises(DatasetDamagedError):
            Stream(StreamSettings(str(data), "train", batch=1, length=4))
        shutil.rmtree(data)


def test_records_at_another_position_are_refused(tmp_path):
    """Chunks of an episode in another order, or of another one, as a repeated or lost write leaves them (attack H2)."""

    def moved(name, frames, chunk, *rest):
        return serialized(name, frames, 1 - chunk, *rest)

    data = write_dataset(tmp_path / "data", [8], record=moved)
    with pytest.raises(DatasetDamagedError, match=r"record 0, of episode train0.*it is chunk 1 of episode b'train0'"):
        Stream(StreamSettings(str(data), "train", batch=1, length=4, nulls="keep")).read(0, [0])


def test_tfds_reads_the_same_records(small):
    """The dataset stays readable by TFDS."""
    theirs, ours = tfds.builder_from_directory(small).as_data_source("train"), dataset.open_records(small, "train")
    assert len(theirs) == len(ours) == len(list(ours)) == 5
    for one, other in zip(theirs, pickle.loads(pickle.dumps(ours)), strict=True):  # noqa: S301
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
    with pytest.raises(IndexError):
        ours[5]
    with pytest.raises(IndexError):
        ours[-1]


@contextmanager
def files_left(count):
    """Limits the process to `count` more open files."""
    gc.collect()  # else descriptors may be freed meanwhile
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 2, most))
    held = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(count):
            os.close(held.pop())
        yield
    finally:
        for handle in held:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Sixty shards of a record each."""
    return write_dataset(tmp_path_factory.mktemp("many") / "data", [CHUNK] * 60, shards=60)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files")
def test_open_shards_are_bounded(many, monkeypatch):
    """The number of open shards does not grow with the number of shards read (scale, row 4)."""
    monkeypatch.setattr(shards, "max_open_shards", lambda: 5)
    source = dataset.open_records(many, "train")
    before = len(os.listdir("/proc/self/fd"))
    for number in (*range(60), *range(60)):
        assert source[number]["episode"] == f"train{number}".encode()
        assert len(os.listdir("/proc/self/fd")) <= before + 5
    del source
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_bound_is_a_share_of_the_open_file_limit(monkeypatch):
    """A quarter of RLIMIT_NOFILE after the reserve for JAX and Grain (scale, row 4)."""
    for allowed, bound in {80: 4, 1024: 240, 4: 2, 10**9: 4096, resource.RLIM_INFINITY: 4096}.items():
        monkeypatch.setattr(resource, "getrlimit", lambda _, allowed=allowed: (allowed, allowed))
        assert shards.max_open_shards() == bound


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files")
def test_too_many_open_files_are_not_reported_as_damage(many, monkeypatch):
    """With few descriptors left, the reader closes its own; with none, the error names the limit to raise (row 4)."""
    stream = Stream(StreamSettings(str(many), "train", batch=2, length=8, nulls="keep"))
    stream.window(0, 0)  # fills the cache of epoch orders, which may drop an older stream
    monkeypatch.setattr(shards, "_readers", shards._ReaderCache())  # no open shard could be closed instead
    with files_left(0), pytest.raises(OpenFilesError, match=r"ulimit -n 4096.*Nothing is damaged") as raised:
        stream.read(0, [0])
    assert raised.value.errno == errno.EMFILE
    assert pickle.loads(pickle.dumps(raised.value)).args == raised.value.args  # noqa: S301
    with files_left(4):
        for step in range(stream.steps_per_epoch):
            stream.read(step, [0, 1])


def test_an_unreadable_shard_is_not_reported_as_damaged(small, monkeypatch):
    """Missing permissions and failing disks raise other errors (scale, row 4)."""

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        dataset.open_records(small, "train")[0]


def test_a_flipped_bit_is_damage(small, tmp_path):
    """ArrayRecord's checksum detects it (attack M2)."""
    data = shutil.copytree(small, tmp_path / "data")
    flip(shard(data, 1), 500)
    stream = Stream(StreamSettings(str(data), "train", batch=1, length=4, nulls="keep", shuffle=False))
    with pytest.raises(DatasetDamagedError, match=r"record [23], of episode train1"):
        list(batches(stream, [0], 0, stream.steps_per_epoch, workers=0))


def test_no_workers_are_started_with_a_low_open_file_limit(many, monkeypatch):
    """Arrays from workers need two open files each (scale, row 4)."""
    stream = Stream(StreamSettings(str(many), "train", batch=2, length=8, nulls="keep"))
    monkeypatch.setattr("vpt_jax.data.streams.open_file_limit", lambda: 80)
    with pytest.warns(UserWarning, match=r"may open 80 files.*ulimit -n 4096"):
        read = list(batches(stream, [0, 1], 0, 3, workers=2))
    for step, batch in enumerate(read):
        np.testing.assert_array_equal(batch.frames, stream.read(step, [0, 1]).frames)
