"""Recordings with text, or subtitles beside them, become datasets with captions; others are as before."""

import contextlib

import numpy as np
import pytest

from configs.prepare import get_config
from vpt_jax.data.captions import FILE, read_captions
from vpt_jax.data.dataset import load_index
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.recording import RecordingWriter

SIZE = 16


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Encodes in this process: a pool of workers takes seconds to start."""

    def run(function, tasks):
        yield from ((number, function(*task)) for number, task in enumerate(tasks))

    monkeypatch.setattr("vpt_jax.data.prepare._workers", lambda *_: contextlib.nullcontext(run))


def record(path, texts):
    with RecordingWriter(path, SIZE, SIZE) as recording:
        for number, text in enumerate(texts):
            recording.write(np.full((SIZE, SIZE, 3), number, np.uint8), {"attack": number % 2}, text=text)


def prepared(folder):
    config = get_config()
    config.update(recordings=str(folder), out=f"{folder}-dataset", height=SIZE, width=SIZE, chunk_frames=4)
    config.valid.fraction = 0.0
    return prepare(config) / "index" / "train"


def captions(index):
    return read_captions(index, load_index(index.parents[1], "train").lengths)


def test_text_and_subtitles_become_captions(tmp_path):
    folder = tmp_path / "recordings"
    folder.mkdir()
    record(folder / "a", ["", "go", "go", "fight", ""])
    record(folder / "b", [""] * 30)
    record(folder / "c", [""] * 5)
    record(folder / "d", ["from the record"])
    for name in ("b", "d"):
        (folder / f"{name}.vtt").write_text("00:01.000 --> 00:09.000\nfrom the subtitles\n")
    index = prepared(folder)
    assert captions(index) == [
        [(1, "go"), (3, "fight"), (4, "")], [(20, "from the subtitles")], [], [(0, "from the record")],
    ]  # fmt: skip
    (folder / "b.vtt").unlink()
    with pytest.raises(PrepareError, match="recordings changed"):
        prepared(folder)


def test_recordings_without_text_are_as_before(tmp_path):
    (tmp_path / "recordings").mkdir()
    record(tmp_path / "recordings" / "a", [""] * 3)
    assert "text" not in (tmp_path / "recordings" / "a.jsonl").read_text()
    index = prepared(tmp_path / "recordings")
    assert not (index / FILE).exists()
    assert captions(index) == [[]]
