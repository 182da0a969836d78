"""Training on segments of a dataset: frames of a stream, compared with complete episodes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa
import pytest

from vpt_jax.data.batch import combine
from vpt_jax.data.embeddings import EmbeddedStream
from vpt_jax.data.manifest import write_table
from vpt_jax.data.streams import Stream, StreamSettings, WindowStream

SCHEMA = pa.schema([("video", pa.string()), ("start", pa.float64()), ("end", pa.float64())])
SEGMENTS = {("train3", 9, 30), ("train3", 41, 90), ("train0", 0, 5), ("train5", 20, 52)}  # in frames


def write(path, segments, prefix="train/", seconds=0.0):
    rows = [{"video": f"{prefix}{name}.mp4", "start": a / 20, "end": b / 20 + seconds} for name, a, b in segments]
    write_table(path, rows, SCHEMA)
    return str(path)


@pytest.fixture
def settings(dataset_dir, tmp_path):
    manifest = write(tmp_path / "m.parquet", [*SEGMENTS, ("elsewhere", 0, 100)], seconds=0.02)
    return StreamSettings(str(dataset_dir), "train", batch=2, length=8, nulls="keep", shuffle=False, segments=manifest)


def read_all(stream):
    """Frames, keys, camera, first and valid of every row of an epoch, end to end."""
    steps = [stream.read(step, range(stream.settings.batch)) for step in range(stream.steps_per_epoch)]
    rows = combine(partial(np.concatenate, axis=1), steps)
    return [field.reshape(-1, *field.shape[2:]) for field in rows if field is not None]


@pytest.mark.parametrize("nulls", ["keep", "drop"])
def test_a_stream_has_exactly_the_frames_of_the_segments(settings, nulls):
    stream = Stream(replace(settings, nulls=nulls))
    whole = Stream(replace(settings, nulls="keep", segments=""))
    names = {f"{name}@{first}-{stop}" for name, first, stop in SEGMENTS}
    assert set(stream.index.names) == names
    shown = read_all(stream)
    frames, buttons, camera, first = (field[shown[4]] for field in shown[:4])
    wanted = []
    for name, start, stop in sorted(SEGMENTS):
        number = whole.index.names.index(name)
        episode = whole.read_episode(number, 0, 200)
        kept = np.arange(start, stop)
        if nulls == "drop":
            kept = kept[~whole.null[whole.index.rows(number)][start:stop]]
        wanted.append([field[0][kept] for field in (episode.frames, episode.buttons, episode.camera)])
    for field, parts in zip((frames, buttons, camera), zip(*wanted, strict=True), strict=True):
        np.testing.assert_array_equal(field, np.concatenate(parts))
    starts = np.cumsum([0] + [len(part[0]) for part in wanted])[:-1]
    assert set(starts) <= set(np.flatnonzero(first))


def test_a_window_lies_in_one_segment(settings):
    stream = WindowStream(replace(settings, shuffle=True, length=5))
    seen = set()
    for step in range(300):
        window = stream.window(step, 0)
        seen |= {(stream.index.names[window.episode[0]], frame) for frame in window.frame[window.real]}
        assert window.frame[window.real].max() < stream.index.lengths[window.episode[0]]
    assert seen == {(f"{name}@{a}-{b}", i) for name, a, b in SEGMENTS for i in range(b - a)}


def test_fingerprint_depends_on_the_segments(settings, dataset_dir, tmp_path):
    moved = {(name, first + (first > 0), stop) for name, first, stop in SEGMENTS}
    other = replace(settings, segments=write(tmp_path / "moved.parquet", moved))
    same = replace(settings, segments=write(tmp_path / "same.parquet", SEGMENTS, prefix=""))
    fingerprints = [Stream(one).fingerprint() for one in (settings, other, same)]
    assert fingerprints[0] == fingerprints[2]
    assert fingerprints[0] != fingerprints[1]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([("valid/valid0", 0, 9)], "none of the 1 segments is of an episode of 'train', such as 'train0'"),
        ([("train0", 0, 9), ("train1", 41, 50)], "segment train1@41-50: its episode has 40 frames"),
        ([("train0", 0, 81)], "segment train0@0-81: its episode has 61 frames"),
        ([("train0", 0, 9), ("train0", 5, 12)], "begins before"),
    ],
)
def test_segments_of_other_videos_are_refused(settings, tmp_path, segments, message):
    with pytest.raises(ValueError, match=message):
        Stream(replace(settings, segments=write(tmp_path / "bad.parquet", segments, prefix="")))


def test_embeddings_of_segments_belong_to_their_frames(settings, tmp_path):
    frames = Stream(replace(settings, segments="")).num_frames
    np.save(tmp_path / "train.npy", np.arange(frames, dtype=np.float32)[:, None])
    embedded, stream = EmbeddedStream(settings, tmp_path, "digest"), Stream(settings)
    rows, valid = read_all(embedded)[0][:, 0].astype(int), read_all(stream)[4]
    np.testing.assert_array_equal(stream.index.camera[rows[valid]], read_all(stream)[2][valid])
