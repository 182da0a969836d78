"""Preparation by Apache Beam: the same bytes for any number of workers, and when tasks are repeated."""

import sys
from contextlib import nullcontext

import pytest

from configs.prepare import get_config
from tests.conftest import FRAME_SIZE, files, record_episode
from vpt_jax.data import dataset
from vpt_jax.data.beam import BeamMissingError
from vpt_jax.data.encode import EncodingSettings, encode_episodes
from vpt_jax.data.prepare import _find, prepare
from vpt_jax.system.workers import temporary_path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beam") / "recordings"
    for split, episodes in {"train": 9, "valid": 2}.items():
        (folder / split).mkdir(parents=True)
        for number in range(episodes):
            record_episode(folder / split / f"take {number}", number, 20 + number)
    (folder / "train" / "take 3.mp4").write_bytes(b"no film")
    return folder


def settings(recordings, out, runner="", *options):
    config = get_config()
    config.update(recordings=str(recordings), out=str(out), height=FRAME_SIZE, width=FRAME_SIZE, chunk_frames=8)
    config.beam.update(runner=runner, options=options)
    return config


@pytest.fixture(scope="module")
def by_processes(recordings, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dataset, "SHARD_BYTES", 60_000)
        return files(prepare(settings(recordings, tmp_path_factory.mktemp("out") / "out")))


PROCESSES = "--direct_running_mode=multi_processing"


@pytest.mark.parametrize("workers", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 4))])
def test_any_number_of_workers_writes_the_same_bytes(recordings, by_processes, tmp_path, workers, monkeypatch):
    monkeypatch.setattr(dataset, "SHARD_BYTES", 60_000)
    options = (f"--direct_num_workers={workers}", *(() if workers == 1 else (PROCESSES,)))
    written = files(prepare(settings(recordings, tmp_path / "out", "DirectRunner", *options)))
    assert sum(name.startswith("vpt-train.array_record") for name in written) > 2
    assert written == by_processes


def test_tasks_are_idempotent(recordings, tmp_path):
    config = EncodingSettings(FRAME_SIZE, FRAME_SIZE, 8, 90)
    tasks = _find(recordings, tmp_path, config)
    (tmp_path / "train").mkdir()
    (tmp_path / "valid").mkdir()
    for task in tasks:
        encode_episodes([task], config)
    once = files(tmp_path)
    for task in reversed(tasks):
        encode_episodes([task], config)
    assert files(tmp_path) == once
    assert len(once) == 3 * 10 + 1


def test_partial_files_of_a_lost_worker_are_not_in_the_dataset(recordings, by_processes, tmp_path, monkeypatch):
    def run(function, tasks):
        for number, task in enumerate(tasks):
            if function is dataset.join_records:
                temporary_path(task[0]).write_bytes(b"half a shard")
            yield number, function(*task)

    monkeypatch.setattr(dataset, "SHARD_BYTES", 60_000)
    monkeypatch.setattr("vpt_jax.data.prepare._workers", lambda *_: nullcontext(run))
    assert files(prepare(settings(recordings, tmp_path / "out"))) == by_processes


def test_without_beam_the_error_names_the_pip_command(recordings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(BeamMissingError, match=r"pip install .*\[beam\]"):
        prepare(settings(recordings, tmp_path / "out", "DirectRunner"))
