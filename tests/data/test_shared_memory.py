"""Batches in flight fit into /dev/shm, or the number of workers is reduced (attack M5)."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from vpt_jax.data import shared_memory, streams
from vpt_jax.data.shared_memory import SHARED_MEMORY, PrefetchSettings, batches_in_flight, fit_shared_memory
from vpt_jax.data.streams import Stream, StreamSettings, WindowStream, batches


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """Function that sets the number of free bytes of /dev/shm; returns a folder."""

    def shared(free):
        monkeypatch.setattr(shared_memory.os, "statvfs", lambda folder: SimpleNamespace(f_bavail=free, f_frsize=1))
        return tmp_path

    return shared


@pytest.mark.parametrize(
    ("free", "chosen"),
    [(50, (8, 2)), (49, (8, 1)), (34, (8, 1)), (33, (7, 1)), (6, (1, 1)), (5, (0, 2)), (0, (0, 2))],
)
def test_batches_in_flight_fit_into_shared_memory(shared, free, chosen, capsys):
    chosen = PrefetchSettings(*chosen)
    assert fit_shared_memory(PrefetchSettings(8, 2), 1_000_000, shared(free * 1_000_000)) == chosen
    assert chosen.workers == 0 or batches_in_flight(chosen) <= free
    warning = capsys.readouterr().err
    assert bool(warning) == (chosen != PrefetchSettings(8, 2))
    assert not warning or ("--shm-size=2g" in warning and "emptyDir" in warning)


def test_without_workers_or_shared_memory_nothing_changes(tmp_path):
    assert fit_shared_memory(PrefetchSettings(0, 2), 1 << 60, tmp_path) == PrefetchSettings(0, 2)
    assert fit_shared_memory(PrefetchSettings(8, 2), 1 << 60, tmp_path / "none") == PrefetchSettings(8, 2)


@pytest.mark.parametrize("kind", [Stream, WindowStream])
def test_bytes_read_matches_a_batch(dataset_dir, kind):
    stream = kind(StreamSettings(str(dataset_dir), "train", 3, 16, nulls="keep"))
    assert stream.bytes_read(2) == sum(field.nbytes for field in jax.tree.leaves(stream.read(0, [0, 2])))


def test_batches_are_the_same_with_too_little_shared_memory(dataset_dir, monkeypatch, capsys):
    stream = Stream(StreamSettings(str(dataset_dir), "train", 3, 16))
    monkeypatch.setattr(streams, "fit_shared_memory", lambda reading, size: fit_shared_memory(reading, 1 << 60))
    for step, batch in enumerate(batches(stream, [0, 2], 0, 2, workers=1)):
        for got, expected in zip(batch, stream.read(step, [0, 2]), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert ("this process reads" in capsys.readouterr().err) == SHARED_MEMORY.is_dir()
