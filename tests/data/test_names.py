"""File names of recordings: other encodings, suffixes in upper case, and pipes or folders in place of files."""

import json
import os
import shutil
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.prepare import get_config
from tests.conftest import record_episode
from vpt_jax.data import dataset
from vpt_jax.data import prepare as preparation
from vpt_jax.recording import find_recordings, recording_file

SETTINGS = preparation.EncodingSettings(16, 16, 4, 90)
LATIN = os.fsdecode(b"lat\xefin")


def prepared(recordings, out):
    config = get_config()
    config.update(recordings=str(recordings), out=str(out), height=16, width=16, workers=1)
    out = preparation.prepare(config)
    return dataset.load_index(out, "train").names, json.loads((out / "report.json").read_text())


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Runs tasks without worker processes, which take seconds to start."""
    run = lambda function, tasks: ((i, function(*task)) for i, task in enumerate(tasks))  # noqa: E731
    monkeypatch.setattr(preparation, "_workers", lambda *_: nullcontext(run))


@pytest.fixture
def recordings(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    record_episode(folder / "good", seed=0, frames=5)
    return folder


def test_recordings_with_names_that_are_not_utf8_are_listed_as_broken(recordings, tmp_path, capsys):
    """They are found before any recording is encoded, and their names are escaped (attack M3)."""
    for suffix in (".mp4", ".jsonl"):
        shutil.copy(recordings / f"good{suffix}", recordings / f"{LATIN}{suffix}")
    names, report = prepared(recordings, tmp_path / "out")
    assert names == ("good",)
    (note,) = report["broken"]
    assert note["reason"] == "unreadable name"
    assert note["file"] == "lat\\xefin.jsonl"
    output = capsys.readouterr().out
    assert output.startswith(f"broken: {recordings}/lat\\xefin: its name is not UTF-8: rename it")
    assert "to include repaired recordings, prepare them into another --config.out" in output
    output.encode()


def test_suffixes_in_upper_case_are_read(recordings, tmp_path):
    """Names are listed without their suffix, in whatever case it is written."""
    for suffix in (".mp4", ".jsonl"):
        shutil.copy(recordings / f"good{suffix}", recordings / f"LOUD{suffix.upper()}")
    (recordings / "good.mp4").rename(recordings / "good.MP4")
    assert [path.name for path in find_recordings(recordings)] == ["LOUD", "good"]
    assert recording_file(recordings / "good", ".jsonl").name == "good.jsonl"
    names, report = prepared(recordings, tmp_path / "out")
    assert names == ("LOUD", "good")
    assert report["broken"] == []


def test_suffixes_in_mixed_case_are_read(recordings, tmp_path):
    """Files that the folder's listing finds are also found when they are opened."""
    (recordings / "good.mp4").rename(recordings / "good.Mp4")
    (recordings / "good.jsonl").rename(recordings / "good.jsonL")
    names, report = prepared(recordings, tmp_path / "out")
    assert names == ("good",)
    assert report["broken"] == []


def test_a_pipe_or_folder_is_a_broken_recording(recordings, tmp_path):
    """A named pipe does not block, and a folder does not end the run with an error."""
    for name in ("pipe", "folder"):
        for suffix in (".mp4", ".jsonl"):
            shutil.copy(recordings / f"good{suffix}", recordings / f"{name}{suffix}")
    (recordings / "pipe.jsonl").unlink()
    os.mkfifo(recordings / "pipe.jsonl")
    (recordings / "folder.mp4").unlink()
    (recordings / "folder.mp4").mkdir()
    names, report = prepared(recordings, tmp_path / "out")
    assert names == ("good",)
    assert {note["file"]: note["reason"] for note in report["broken"]} == {
        "pipe.jsonl": "unreadable actions",
        "folder.mp4": "missing video",
    }


def test_unreadable_files_change_the_result_path(recordings, monkeypatch):
    """Files without read permission: the run continues, and encodes again once they can be read."""

    def refuse(path, whole):
        raise PermissionError(13, "Permission denied", str(path))

    describe = lambda: preparation._recording("train", recordings / "good", Path("results"), SETTINGS)  # noqa: E731
    before = describe()
    with monkeypatch.context() as patch:
        patch.setattr("vpt_jax.video_files.file_digest", refuse)
        refused = describe()
    assert describe() == before
    assert refused._replace(result=before.result) == before
    assert refused.result != before.result


def test_a_recording_of_many_segments_is_read_once(recordings, monkeypatch):
    rows = {"video": ["good.mp4"] * 3, "start": [0.0, 0.05, 0.1], "end": [0.05, 0.1, 0.15]}
    pq.write_table(pa.table(rows), recordings / "m.parquet")
    read, digest = Counter(), preparation.content_digest
    count = lambda path, whole: read.update([path.name]) or digest(path, whole)  # noqa: E731
    monkeypatch.setattr(preparation, "content_digest", count)
    segments = preparation._find_segments(recordings / "m.parquet", Path("results"), SETTINGS)
    assert [(one.first, one.stop) for one in segments] == [(0, 1), (1, 2), (2, 3)]
    assert len({one.result for one in segments}) == 3
    assert read == {"good.mp4": 1, "good.jsonl": 1}
