"""Captions: from records to a dataset and to batches, with hostile text and damaged files."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.tiny import write_dataset
from vpt_jax.data.captions import (
    MAX_TEXT,
    SCHEMA,
    Caption,
    CaptionObserver,
    clean_text,
    join_captions,
    load_captions,
    read_captions,
    write_captions,
)
from vpt_jax.data.dataset import join_datasets, load_index
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.manifest import write_table
from vpt_jax.data.mixture import MixtureStream
from vpt_jax.data.streams import Part, Stream, StreamSettings, batches
from vpt_jax.data.text_embedders import load_text_embedder
from vpt_jax.data.text_tables import write_text_table

LENGTHS = (9, 6)
CAPTIONS = [[Caption(2, "open the door"), Caption(5, ""), Caption(7, "fight")], [Caption(0, "fight")]]
TEXTS = ["", "", *["open the door"] * 3, "", "", "fight", "fight", *["fight"] * 6]  # of every frame


@pytest.fixture
def folder(tmp_path):
    """Dataset of two episodes with captions."""
    write_dataset(tmp_path / "dataset", LENGTHS)
    write_captions(tmp_path / "dataset" / "index" / "train", CAPTIONS)
    return tmp_path / "dataset"


def settings_of(folder, **changes):
    embedder = load_text_embedder("hashed")
    table = write_text_table(folder, "train", embedder, folder.parent / "text")
    return StreamSettings(str(folder), "train", 1, 4, **{"nulls": "keep", "shuffle": False, "text": table} | changes)


def test_the_text_of_records_becomes_captions():
    observer = CaptionObserver(slice(1, 6))
    for number, text in enumerate(
        ["before", None, "go", "go", ["no", "text"], "\x1b[2Jdig\u202e " + "x" * 9999, "after"]
    ):
        observer.observe(number, {} if text is None else {"text": text})
    dug = observer.captions.pop()
    assert observer.captions == [(1, "go"), (3, "")]
    assert dug.text.startswith("[2Jdig xxx")
    assert len(dug.text) <= MAX_TEXT
    assert dug.text.isprintable()
    assert clean_text("\ud800") == clean_text(7) == ""


def test_captions_end_with_their_part_of_a_joined_episode():
    parts = [([Caption(1, "a")], 4), ([Caption(2, "b")], 3), ([Caption(0, "c")], 2)]
    assert join_captions(parts) == [(1, "a"), (4, ""), (6, "b"), (7, "c")]


def test_every_frame_has_its_text(folder):
    captions = load_captions(folder / "index" / "train", np.array(LENGTHS))
    assert [captions.texts[number] for number in captions.at(np.arange(sum(LENGTHS)))] == TEXTS
    assert read_captions(folder / "index" / "train", np.array(LENGTHS)) == CAPTIONS


def test_datasets_keep_their_captions_when_they_are_joined(folder, tmp_path):
    write_dataset(tmp_path / "silent", (4,), seed=1)
    np.save(tmp_path / "silent" / "index" / "train" / "names.npy", ["another"])
    join_datasets(tmp_path / "joined", [tmp_path / "silent", folder], "train")
    lengths = load_index(tmp_path / "joined", "train").lengths
    assert read_captions(tmp_path / "joined" / "index" / "train", lengths) == [[], *CAPTIONS]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_have_the_embedding_of_each_frames_text(folder, workers):
    stream, embedder = Stream(settings_of(folder)), load_text_embedder("hashed")
    read = list(batches(stream, [0], 0, stream.steps_per_epoch, workers))
    text = np.concatenate([batch.text[0] for batch in read])
    padded = [*TEXTS, ""]
    expected = np.array([np.zeros(256) if name == "" else embedder.embed([name])[0] for name in padded])
    np.testing.assert_array_equal(text, expected)
    assert stream.bytes_read(1) == sum(field.nbytes for field in read[0])
    assert stream.fingerprint()["text"] == ["hashed-1", 256]
    plain = Stream(settings_of(folder, text=None))
    assert plain.read(0, [0]).text is None
    assert "text" not in plain.fingerprint()


@pytest.mark.parametrize("segments", [(), [(0, 1)], [(1, 2), (2, 3)]])
def test_text_stays_with_its_frame_when_frames_are_dropped_and_episodes_cut(tmp_path, segments):
    folder, manifest = write_dataset(tmp_path / "dataset", (70,)), ""
    buttons = np.load(folder / "index" / "train" / "buttons.npy", mmap_mode="r+")
    camera = np.load(folder / "index" / "train" / "camera.npy", mmap_mode="r+")
    null = np.arange(70) % 3 == 0
    buttons[null], camera[null] = 0, 0
    words = [f"word{frame}" for frame in range(70)]
    write_captions(folder / "index" / "train", [[Caption(frame, text) for frame, text in enumerate(words)]])
    if segments:
        manifest = str(tmp_path / "segments.parquet")
        columns = {"video": ["train/train0.mp4"] * len(segments)}
        columns |= {name: [float(one[i]) for one in segments] for i, name in enumerate(("start", "end"))}
        pq.write_table(pa.table(columns), manifest)
    stream, embedder = Stream(settings_of(folder, nulls="drop", segments=manifest)), load_text_embedder("hashed")
    read = [stream.read(step, [0]) for step in range(stream.steps_per_epoch)]
    text = np.concatenate([batch.text[0][batch.valid[0]] for batch in read])
    inside = [frame for start, end in segments or [(0, 3.5)] for frame in range(int(20 * start), int(20 * end))]
    kept = [words[frame] for frame in inside if not null[frame]]
    np.testing.assert_array_equal(text, embedder.embed(kept))


def test_a_mixture_joins_the_text_of_its_datasets(folder, tmp_path):
    silent = write_dataset(tmp_path / "silent", (30,), seed=1)
    streams = [Stream(settings_of(one)) for one in (folder, silent)]
    assert [one.settings.text.texts for one in streams] == [3, 1]
    mixture = MixtureStream([Part(str(i), one, 0.5) for i, one in enumerate(streams)], 2)
    text = mixture.read(1, [0, 1]).text
    np.testing.assert_array_equal(text[0], streams[0].read(1, [0]).text[0])
    assert text[0].any()
    assert not text[1].any()
    assert mixture.fingerprint()["text"] == ["hashed-1", 256]


@pytest.mark.parametrize(
    "captions",
    [
        [[Caption(9, "after the end")], []],
        [[Caption(-1, "before the start")], []],
        [[Caption(3, "late"), Caption(2, "early")], []],
        [[], [], [Caption(0, "of a third episode")]],
    ],
)
def test_impossible_captions_are_refused(folder, captions):
    write_captions(folder / "index" / "train", captions)
    with pytest.raises(DatasetDamagedError, match=r"captions\.parquet is damaged: frames outside"):
        Stream(replace(settings_of(folder)))


def test_rows_without_a_number_are_refused(folder):
    row = {"episode": None, "frame": 0, "text": "go"}
    write_table(folder / "index" / "train" / "captions.parquet", [row], SCHEMA)
    with pytest.raises(DatasetDamagedError, match=r"captions\.parquet is damaged: rows without episode or frame"):
        settings_of(folder)


def test_damaged_files_are_refused(folder):
    (folder / "index" / "train" / "captions.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(DatasetDamagedError, match=r"captions\.parquet is damaged"):
        settings_of(folder)


def test_a_damaged_table_is_refused(folder):
    settings = settings_of(folder)
    np.save(settings.text.file, np.zeros((2, 256), np.float32))
    with pytest.raises(DatasetDamagedError, match="remove it"):
        Stream(settings).read(0, [0])
