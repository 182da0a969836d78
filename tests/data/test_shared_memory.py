"""Batches in flight fit into /dev/shm, or fewer workers read them (attack M5; failing: shm-64mb)."""

from types import SimpleNamespace

import numpy as np
import pytest

from vpt_jax.data import shared_memory, streams
from vpt_jax.data.shared_memory import SHARED_MEMORY, Reading, batches_in_flight, fit_shared_memory
from vpt_jax.data.streams import Stream, StreamSettings, WindowStream, batches


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """A /dev/shm with so many bytes free."""

    def shared(free):
        monkeypatch.setattr(shared_memory.os, "statvfs", lambda folder: SimpleNamespace(f_bavail=free, f_frsize=1))
        return tmp_path

    return shared


@pytest.mark.parametrize(
    ("free", "chosen"),
    [(50, Reading(8, 2)), (49, Reading(8, 1)), (34, Reading(8, 1)), (33, Reading(7, 1)), (6, Reading(1, 1)),
     (5, Reading(0, 2)), (0, Reading(0, 2))],
)  # fmt: skip
def test_no_more_is_in_flight_than_there_is_room_for(shared, free, chosen, capsys):
    assert fit_shared_memory(Reading(8, 2), 1_000_000, shared(free * 1_000_000)) == chosen
    assert chosen.workers == 0 or batches_in_flight(chosen) <= free
    said = capsys.readouterr().err
    assert bool(said) == (chosen != Reading(8, 2))
    assert not said or ("--shm-size=2g" in said and "emptyDir" in said)


def test_who_reads_without_workers_or_shared_memory_is_not_asked(tmp_path):
    assert fit_shared_memory(Reading(0, 2), 1 << 60, tmp_path) == Reading(0, 2)
    assert fit_shared_memory(Reading(8, 2), 1 << 60, tmp_path / "none") == Reading(8, 2)


@pytest.mark.parametrize("kind", [Stream, WindowStream])
def test_readers_know_how_much_they_read(dataset_dir, kind):
    stream = kind(StreamSettings(str(dataset_dir), "train", 3, 16, nulls="keep"))
    assert stream.bytes_read(2) == sum(np.asarray(field).nbytes for field in stream.read(0, [0, 2]))


def test_the_batches_are_the_same_where_there_is_no_room(dataset_dir, monkeypatch, capsys):
    stream = Stream(StreamSettings(str(dataset_dir), "train", 3, 16))
    monkeypatch.setattr(streams, "fit_shared_memory", lambda reading, size: fit_shared_memory(reading, 1 << 60))
    for step, batch in enumerate(batches(stream, [0, 2], 0, 2, workers=1)):
        for got, expected in zip(batch, stream.read(step, [0, 2]), strict=True):
            np.testing.assert_array_equal(got, expected)
    assert ("this process reads" in capsys.readouterr().err) == SHARED_MEMORY.is_dir()
