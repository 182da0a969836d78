"""Manifests: strict validation, and preparation of segments equal to slices of the prepared recordings."""

import json
import os
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.prepare import get_config
from tests.conftest import FRAME_SIZE, record_episode
from vpt_jax.data import codecs, dataset
from vpt_jax.data.manifest import ManifestError, VideoSegment, read_segments, write_table
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.recording import read_frames, read_steps

SCHEMA = pa.schema([("video", pa.string()), ("start", pa.float64()), ("end", pa.float64()), ("note", pa.string())])


def write(path, *segments):
    write_table(path, [dict(zip(VideoSegment._fields, segment, strict=True)) for segment in segments], SCHEMA)
    return path


def test_segments_are_read_in_order_with_their_frames(tmp_path):
    segments = read_segments(write(tmp_path / "m.parquet", ("b/x.y.mp4", 1, 2.5), ("a.mp4", 3, 4), ("a.mp4", 0, 3)))
    assert [segment.name for segment in segments] == ["a@0-60", "a@60-80", "b/x.y@20-50"]
    assert segments[2].frames == slice(20, 50)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([("../a.mp4", 0, 1)], "row 0: video is '../a.mp4', and must be a path in the manifest's folder"),
        ([("a.mp4", 0, 1), ("/etc/a.mp4", 0, 1)], "row 1: video is '/etc/a.mp4'"),
        ([(None, 0, 1)], "row 0: video is None"),
        ([("a.mp4", 1, 1)], "a.mp4 from 1.0 to 1.0 s is not a segment"),
        ([("a.mp4", float("nan"), 1)], "is not a segment"),
        ([("a.mp4", 0, float("inf"))], "is not a segment"),
        ([("a.mp4", None, 1)], "is not a segment"),
        ([("a.mp4", 1, 1.01)], "holds no frame"),
        ([("a.mp4", 0, 1), ("a.mp4", -1, 1)], "row 1: a.mp4 from -1.0 to 1.0 s is not a segment"),
        ([("a.mp4", 0, 1), ("b.mp4", 0, 1e308)], "row 1: b.mp4 from 0.0 to 1e[+]308 s is not a segment"),
        ([("a.mp4", 0, 1e18)], "row 0: a.mp4 from 0.0 to 1e[+]18 s is not a segment"),
        ([("a.mp4", -1e308, 1e308)], "row 0: .* is not a segment"),
        ([("a.mp4", 1e9, 2e9)], "row 0: .* is not a segment"),
        ([("a.mp4", 0, 1), ("n" * 256, 0, 1)], "row 1: video is 'nnn.* 255 bytes at most"),
        ([("\xe9" * 128 + "/a.mp4", 0, 1)], "row 0: video is .* 255 bytes at most"),
        ([("/".join(["n" * 200] * 30), 0, 1)], "row 0: video is"),
        ([("a\0.mp4", 0, 1)], "row 0: video is"),
        ([("", 0, 1)], "row 0: video is ''"),
        ([("\x1b[2J", 2, 1)], r"row 0: .x1b\[2J from 2.0"),
        ([("\x1b[2J", 0, 3), ("\x1b[2J", 2, 4)], r".x1b\[2J@40-80 begins before .x1b\[2J@0-60 ends"),
        ([("a.mp4", 2, 4), ("a.mp4", 0, 3)], "a@40-80 begins before a@0-60 ends"),
    ],
)
def test_invalid_segments_are_named(tmp_path, segments, message):
    with pytest.raises(ManifestError, match=message):
        read_segments(write(tmp_path / "m.parquet", *segments))


def test_invalid_manifests_are_named(tmp_path):
    path = tmp_path / "m.parquet"
    for content in (b"", b"PAR1 no", b"\0" * 1000):
        path.write_bytes(content)
        with pytest.raises(ManifestError, match=r"m\.parquet is not a manifest"):
            read_segments(path)
    pq.write_table(pa.table({"video": ["a.mp4"], "start": [0.0]}), path)
    with pytest.raises(ManifestError, match=r"m\.parquet is not a manifest"):
        read_segments(path)


@pytest.fixture
def recordings(tmp_path):
    (tmp_path / "recordings" / "valid").mkdir(parents=True)
    for number, frames in {"long": 90, "short": 30, "valid/other": 45}.items():
        record_episode(tmp_path / "recordings" / number, frames, frames)
    return tmp_path / "recordings"


def settings(recordings, out):
    config = get_config()
    config.update(recordings=str(recordings), out=str(out), height=FRAME_SIZE, width=FRAME_SIZE, chunk_frames=8)
    return config


def read(folder, split, number):
    """Frames and actions of an episode."""
    index, source = dataset.load_index(folder, split), dataset.open_records(folder, split)
    first, chunks = index.first_record[number], -(-index.lengths[number] // index.chunk_frames)
    parts = [source[record] for record in range(first, first + chunks)]
    frames = np.concatenate(
        [codecs.decode_frames(p["frames"], p["frame_ends"], range(len(p["camera"]))) for p in parts]
    )
    return frames, *(np.concatenate([part[field] for part in parts]) for field in ("buttons", "camera"))


def test_prepared_segments_equal_slices_of_the_prepared_recording(recordings, tmp_path):
    segments = [("long.mp4", 0.5, 2.0), ("long.mp4", 2.0, 4.6), ("valid/other.mp4", 0, 1), ("short.mp4", 2, 9),
                ("gone.mp4", 0, 1)]  # fmt: skip
    manifest = write(recordings / "m.parquet", *segments)
    out = prepare(settings(manifest, tmp_path / "parts"))
    for split, lengths in {"train": {"long@10-40": 30, "long@40-92": 50}, "valid": {"other@0-20": 20}}.items():
        index = dataset.load_index(out, split)
        assert dict(zip(index.names, index.lengths.tolist(), strict=True)) == lengths
    broken = json.loads((out / "report.json").read_text())["broken"]
    assert {Path(note["file"]).stem: note["reason"] for note in broken} == {
        "gone": "missing actions",
        "short": "too short",
    }
    manifest.unlink()
    for path in (*recordings.glob("short.*"), *(recordings / "valid").glob("*")):
        path.unlink()
    (recordings / "valid").rmdir()
    whole = read(prepare(settings(recordings, tmp_path / "whole")), "train", 0)
    assert len(whole[1]) == len(read_steps(recordings / "long.jsonl").buttons)
    for number, rows in enumerate((slice(10, 40), slice(40, 90))):
        for part, complete in zip(read(out, "train", number), whole, strict=True):
            np.testing.assert_array_equal(part, complete[rows])


def test_a_recording_is_read_once_for_all_its_segments(recordings, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr("vpt_jax.data.encode.read_frames", lambda *given: read.append(given[0]) or read_frames(*given))
    monkeypatch.setattr("vpt_jax.data.prepare._workers", lambda *_: nullcontext(in_this_process))
    manifest = write(recordings / "m.parquet", *(("long.mp4", i, i + 1) for i in range(4)), ("short.mp4", 0, 1))
    assert len(dataset.load_index(prepare(settings(manifest, tmp_path / "out")), "train").names) == 5
    assert [path.name for path in read] == ["long.mp4", "short.mp4"]


def in_this_process(function, tasks):
    return ((number, function(*task)) for number, task in enumerate(tasks))


def test_invalid_manifests_are_refused_by_prepare(recordings, tmp_path):
    with pytest.raises(PrepareError, match="two segments would be called long@0-20"):
        prepare(settings(write(recordings / "m.parquet", ("long.mp4", 0, 1), ("long.mkv", 0, 1)), tmp_path / "out"))
    with pytest.raises(PrepareError, match="begins before"):
        prepare(settings(write(recordings / "m.parquet", ("long.mp4", 0, 1), ("./long.mp4", 0, 1)), tmp_path / "out"))
    with pytest.raises(PrepareError, match="no manifest"):
        prepare(settings(recordings / "none.parquet", tmp_path / "out"))
    with pytest.raises(PrepareError, match="must be a path in the manifest's folder"):
        prepare(settings(write(recordings / "m.parquet", ("../long.mp4", 0, 1)), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_name_may_be_as_long_as_a_file_system_allows(recordings, tmp_path):
    for suffix in (".mp4", ".jsonl"):
        (recordings / f"short{suffix}").rename(recordings / f"{'n' * 249}{suffix}")
    (recordings / "valid").rename(tmp_path / "valid")
    index = dataset.load_index(prepare(settings(recordings, tmp_path / "out")), "train")
    assert index.names == ("long", "n" * 249)


@pytest.mark.parametrize(
    "times",
    [pa.decimal128(10, 2), pa.decimal256(50, 2), pa.int8(), pa.uint64(), pa.int64(), pa.float32(), pa.float16()],
    ids=str,
)
@pytest.mark.parametrize(
    "names", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], ids=str
)
def test_columns_of_any_width_are_read(tmp_path, times, names):
    """DuckDB's literals are decimals, and other tools write numbers and strings of other widths."""
    table = pa.table({"video": ["b.mp4", "a.mp4"], "start": [1.0, 0.0], "end": [2.0, 12.0]})
    if pa.types.is_decimal(times):
        table = table.set_column(2, "end", pa.chunked_array([[2.0, 12.5]]))
    for i, kind in enumerate([names, times, times]):
        table = table.set_column(i, table.column_names[i], table.column(i).cast(kind))
    pq.write_table(table, tmp_path / "m.parquet")
    end = 12.5 if pa.types.is_decimal(times) else 12.0
    assert read_segments(tmp_path / "m.parquet") == [VideoSegment("a.mp4", 0.0, end), VideoSegment("b.mp4", 1.0, 2.0)]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1], pa.timestamp("ns")), pa.array([1], pa.duration("s")), pa.array([1], pa.date32()), pa.array(["1"]),
        pa.array([True]), pa.array([b"1"]), pa.array([[1.0]]), pa.array([{"end": 1.0}]), pa.nulls(1),
    ],
    ids=lambda column: str(column.type),
)  # fmt: skip
def test_columns_of_other_types_are_named(tmp_path, column):
    """(attack M9) Timestamps once ended the program with an uncaught ValueError."""
    pq.write_table(pa.table({"video": ["a.mp4"], "start": [0.0], "end": column}), tmp_path / "m.parquet")
    with pytest.raises(
        ManifestError, match=r"m\.parquet(: column end is of type .* seconds, as numbers| is not a manifest)"
    ):
        read_segments(tmp_path / "m.parquet")


def test_nulls_and_invalid_names_are_named(tmp_path):
    for video in (
        pa.array([None], pa.string()),
        pa.array([1]),
        pa.array([b"\xff"]),
        pa.array([[]], pa.list_(pa.string())),
    ):
        pq.write_table(pa.table({"video": video, "start": [0], "end": [1]}), tmp_path / "m.parquet")
        with pytest.raises(ManifestError, match=r"m\.parquet"):
            read_segments(tmp_path / "m.parquet")


def test_manifests_without_rows_and_with_many_row_groups_are_read(tmp_path):
    assert read_segments(write(tmp_path / "m.parquet")) == []
    table = pa.table({"video": ["b.mp4", "a.mp4", "b.mp4"], "start": [2, 0, 0], "end": [3, 1, 1]})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=1)
    assert [segment.name for segment in read_segments(tmp_path / "m.parquet")] == ["a@0-20", "b@0-20", "b@40-60"]


def test_many_rows_are_read_quickly(tmp_path):
    """(attack M9) At 30 us per row a million took 34 s; a Parquet file of a few kB may hold that many."""
    count = 100_000
    table = pa.table({"video": ["a.mp4"] * count, "start": np.arange(count) / 2, "end": np.arange(count) / 2 + 0.5})
    pq.write_table(table, tmp_path / "m.parquet")
    before = time.process_time()
    segments = read_segments(tmp_path / "m.parquet")
    assert len(segments) == count
    assert segments[-1] == VideoSegment("a.mp4", (count - 1) / 2, count / 2)
    assert time.process_time() - before < 2  # processor time; at 30 us per row it was 3 s


def test_too_many_rows_are_refused_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr("vpt_jax.data.manifest.MAX_ROWS", 1)
    with pytest.raises(ManifestError, match=r"m\.parquet has 2 rows; the limit is 1: split it"):
        read_segments(write(tmp_path / "m.parquet", ("a.mp4", 0, 1), ("b.mp4", 0, 1)))


def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "m.parquet")
    with pytest.raises(ManifestError, match="no such file"):
        read_segments(tmp_path / "m.parquet")
