"""Names of recordings as old disks and other systems have them."""

import json
import os
import shutil
from contextlib import nullcontext

import pytest

from configs.prepare import get_config
from tests.conftest import record_episode
from vpt_jax.data import dataset
from vpt_jax.data import prepare as preparation
from vpt_jax.recording import find_recordings, recording_file

LATIN = os.fsdecode(b"lat\xefin")


def prepared(recordings, out):
    config = get_config()
    config.update(recordings=str(recordings), out=str(out), height=16, width=16, workers=1)
    out = preparation.prepare(config)
    return dataset.load_index(out, "train").names, json.loads((out / "report.json").read_text())


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Without workers, which take seconds to start."""
    run = lambda function, tasks: ((i, function(*task)) for i, task in enumerate(tasks))  # noqa: E731
    monkeypatch.setattr(preparation, "_workers", lambda config: nullcontext(run))


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    record_episode(folder / "good", seed=0, frames=5)
    return folder


def test_names_that_are_not_utf8_are_broken_before_any_work(recordings, tmp_path, capsys):
    """(failing: non-utf8-name, attack M3)"""
    for suffix in (".mp4", ".jsonl"):
        shutil.copy(recordings / f"good{suffix}", recordings / f"{LATIN}{suffix}")
    names, report = prepared(recordings, tmp_path / "out")
    assert names == ("good",)
    (note,) = report["broken"]
    assert note["reason"] == "unreadable name"
    assert note["file"] == "lat\\xefin.jsonl"
    said = capsys.readouterr().out
    assert said.startswith(f"broken: {recordings}/lat\\xefin: its name is not UTF-8: rename it")
    said.encode()


def test_suffixes_in_upper_case_are_read(recordings, tmp_path):
    """(issue 19, clause 6)"""
    for suffix in (".mp4", ".jsonl"):
        shutil.copy(recordings / f"good{suffix}", recordings / f"LOUD{suffix.upper()}")
    (recordings / "good.mp4").rename(recordings / "good.MP4")
    assert [path.name for path in find_recordings(recordings)] == ["LOUD", "good"]
    assert recording_file(recordings / "good", ".jsonl").name == "good.jsonl"
    names, report = prepared(recordings, tmp_path / "out")
    assert names == ("LOUD", "good")
    assert report["broken"] == []
