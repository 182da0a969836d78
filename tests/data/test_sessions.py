"""Segments of one session: which are contiguous, and the boundaries within joined episodes."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from configs.prepare import get_config
from tests.conftest import files
from vpt_jax.actions.minerl import MINERL
from vpt_jax.data import codecs, dataset
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.data.sessions import SegmentTiming, group_contiguous, is_contiguous
from vpt_jax.data.streams import Stream, StreamSettings, WindowStream
from vpt_jax.recording import RecordingWriter
from vpt_jax.video import VideoWriter

SIZE, CHUNK = 32, 8
START = datetime(2022, 4, 21, 9, 26, 39)


def name(seconds, player="cheeky-cornflower-setter", session="02e496ce4abb", version="8.0_"):
    return f"{version}{player}-{session}-{START + timedelta(seconds=seconds):%Y%m%d-%H%M%S}"


def span(seconds, frames=6000, ticks=None, **parts):
    first, last = ticks or (None, None)
    return SegmentTiming(Path("recordings") / name(seconds, **parts), frames, first, last)


@pytest.mark.parametrize(
    ("before", "after", "contiguous"),
    [
        (span(0), span(300), True),
        (span(0), span(310), True),  # the two published segments
        (span(0), span(330), True),
        (span(0), span(298), True),
        (span(0), span(600), False),  # one is missing
        (span(0), span(290), False),  # they overlap
        (span(0), span(0), False),
        (span(300), span(0), False),
        (span(0, frames=916), span(46), True),
        (span(0, frames=916), span(76), False),  # another game of the session
        (span(0, frames=20), span(1), True),
        (span(0, frames=20), span(3), True),
        (span(0, frames=20), span(4), False),
        (span(86_400 - 30), span(86_400 + 270), True),  # across midnight
        (span(0), span(300, session="02e496ce4abc"), False),
        (span(0), span(300, player="other"), False),
        (span(0), span(300, version="8.1_"), False),
        (span(0, version=""), span(300, version=""), True),
        (span(0, ticks=(1, 6000)), span(300, ticks=(6001, 9000)), True),
        (span(0, ticks=(1, 6000)), span(300, ticks=(6040, 9000)), True),
        (span(0, ticks=(1, 6000)), span(300, ticks=(6041, 9000)), False),
        (span(0, ticks=(1, 6000)), span(300, ticks=(6000, 9000)), False),
        (span(0, ticks=(1, 6000)), span(300, ticks=(1, 9000)), False),  # a new world
        (span(0, ticks=(1, 6000)), span(300), True),  # only one of them has ticks
        (SegmentTiming(Path("a"), 20, 1, 20), SegmentTiming(Path("a"), 20, 21, 40), False),
        (SegmentTiming(Path(name(0)[:-15] + "20221399-000000"), 20, 1, 20), span(1), False),
    ],
)
def test_is_contiguous(before, after, contiguous):
    assert is_contiguous(before, after) is contiguous


def test_two_players_of_one_name_are_not_joined():
    """Interleaved segments: the game's clock separates them; without it, ambiguous ones are not joined."""
    players = {"a": (0, 305, 612), "b": (20, 325, 625)}
    clocks = {"a": (1, 6001, 12001), "b": (50_001, 56_001, 62_001)}
    segments = sorted(
        (start, person, first) for person, starts in players.items()
        for start, first in zip(starts, clocks[person], strict=True)
    )  # fmt: skip

    def grouped(with_clock):
        groups = group_contiguous(
            segments, lambda one: span(one[0], ticks=(one[2], one[2] + 5999) if with_clock else None, player="treechop")
        )
        return [[(person, start) for start, person, _ in group] for group in groups]

    assert grouped(with_clock=True) == [[(person, start) for start in starts] for person, starts in players.items()]
    assert grouped(with_clock=False) == [[(person, start)] for start, person, _ in segments]


OTHER_NAME = SegmentTiming(Path("a"), 5, None, None)


def test_groups_are_ordered_by_their_first_segment():
    spans = [span(600), span(0), span(5000), span(300), span(0, player="other"), OTHER_NAME]
    assert group_contiguous(spans, lambda one: one) == [
        [spans[1], spans[3], spans[0]] if one is spans[1] else [one] for one in (spans[1], spans[2], *spans[4:])
    ]
    assert group_contiguous([], lambda one: one) == []
    short = [span(0), span(305, frames=400), span(327)]  # the last could follow the first as well
    assert group_contiguous(short, lambda one: one) == [short]


def cut_session(folder, cuts, frames=90, ticks=None):
    """Writes a recording, and the same cut into segments that begin at `cuts`; returns the segments' names."""
    rng = np.random.default_rng(0)
    world = np.kron(rng.integers(0, 256, (frames, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    film = [world[4 * i : 4 * i + SIZE, :SIZE] for i in range(frames)]
    buttons, camera = rng.integers(0, 2, (frames, 20), np.uint8), rng.normal(0, 5, (frames, 2)).astype(np.float32)
    buttons[:, 0] = 0  # an attack in a segment's first record counts as a stuck button
    names = [name(cut / 20) for cut in cuts]
    bounds = {"whole": (0, frames)} | dict(zip(names, zip(cuts, [*cuts[1:], frames], strict=True), strict=True))
    for path, (start, stop) in bounds.items():
        place = folder / ("whole" if path == "whole" else "cut") / path
        place.parent.mkdir(parents=True, exist_ok=True)
        with RecordingWriter(place, SIZE, SIZE) as recording:
            for i in range(start, stop):
                recording.write(film[i], MINERL.to_env(buttons[i], camera[i]))
        if ticks and path in ticks:
            lines = [json.loads(line) for line in place.with_name(f"{place.name}.jsonl").read_text().splitlines()]
            lines = [line | {"serverTick": ticks[path] + i} for i, line in enumerate(lines)]
            place.with_name(f"{place.name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return names


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Runs tasks without process pools, which take seconds to start."""
    run = nullcontext(lambda function, tasks: ((number, function(*task)) for number, task in enumerate(tasks)))
    monkeypatch.setattr("vpt_jax.data.prepare._workers", lambda *_: run)


def make(recordings, out, **changes):
    config = get_config()
    config.update(recordings=str(recordings), out=str(out), height=SIZE, width=SIZE, chunk_frames=CHUNK)
    config.update(changes)
    return prepare(config)


def read(out, episode):
    """Frames and actions of an episode; checks that its records are those of an uncut recording."""
    index, source = dataset.load_index(out, "train"), dataset.open_records(out, "train")
    length, first = int(index.lengths[episode]), index.first_record[episode]
    parts = [source[record] for record in range(first, first - -length // CHUNK)]
    for chunk, part in enumerate(parts):
        assert (part["episode"].decode(), part["chunk"]) == (index.names[episode], chunk)
        assert (part["first_frame"], part["num_frames"]) == (chunk * CHUNK, length)
        assert len(part["camera"]) == min(CHUNK, length - chunk * CHUNK)
    frames = [codecs.decode_frames(part["frames"], part["frame_ends"], range(len(part["camera"]))) for part in parts]
    rows = index.rows(episode)
    for field in ("buttons", "camera"):
        np.testing.assert_array_equal(np.concatenate([part[field] for part in parts]), getattr(index, field)[rows])
    return np.concatenate(frames), np.asarray(index.buttons[rows]), np.asarray(index.camera[rows])


def first_frames(out, reader=Stream):
    settings = StreamSettings(str(out), "train", batch=1, length=30, nulls="keep", shuffle=False)
    stream = reader(settings)
    windows = [stream.window(step, 0) for step in range(stream.steps_per_epoch)]
    return [np.concatenate([getattr(window, field) for window in windows]) for field in ("first", "real")]


def test_contiguous_segments_join_without_a_seam(tmp_path):
    """One episode with the frames, actions and records of the uncut recording; `first` is set at its start only."""
    names = cut_session(tmp_path, [0, 20, 60])
    out = make(tmp_path / "cut", tmp_path / "out", join_segments=True)
    whole = make(tmp_path / "whole", tmp_path / "uncut")
    assert dataset.load_index(out, "train").names == (names[0],)
    report = json.loads((out / "report.json").read_text())
    assert report["splits"]["train"] == {"episodes": 1, "frames": 90, "broken": 0}
    assert report["joined"] == {f"train/{names[0]}": names}
    frames, buttons, camera = read(out, 0)
    expected = read(whole, 0)
    assert (
        np.abs(frames.astype(float) - expected[0]).mean() < 12
    )  # two lossy encodings; neighbouring frames differ by 40 or more
    np.testing.assert_array_equal(buttons, expected[1])
    np.testing.assert_array_equal(camera, expected[2])
    first, real = first_frames(out)
    assert real.sum() == 90
    assert np.flatnonzero(first & real).tolist() == [0]
    separate = make(tmp_path / "cut", tmp_path / "separate")  # the default
    assert dataset.load_index(separate, "train").names == tuple(names)
    first, real = first_frames(separate)
    assert np.flatnonzero(first & real).tolist() == [0, 20, 60]
    for number, rows in enumerate((slice(0, 20), slice(20, 60), slice(60, 90))):
        for part, complete in zip(read(separate, number), (frames, buttons, camera), strict=True):
            np.testing.assert_array_equal(part, complete[rows])  # joining does not re-encode


def remove(path):
    for suffix in (".mp4", ".jsonl"):
        path.with_name(path.name + suffix).unlink()


def damage(path):
    path.with_name(path.name + ".jsonl").write_text("no json\n")


@pytest.mark.parametrize("lose", [remove, damage])
def test_an_episode_ends_where_a_segment_is_missing_or_broken(tmp_path, lose):
    names = cut_session(tmp_path, [0, 60, 120, 180, 240], frames=300)
    lose(tmp_path / "cut" / names[2])
    index = dataset.load_index(make(tmp_path / "cut", tmp_path / "out", join_segments=True), "train")
    assert dict(zip(index.names, index.lengths.tolist(), strict=True)) == {names[0]: 120, names[3]: 120}


def test_a_new_world_begins_a_new_episode(tmp_path):
    cuts = [0, 20, 40]
    ticks = dict(zip(map(name, (0, 1, 2)), (100, 120, 1), strict=True))
    names = cut_session(tmp_path, cuts, ticks=ticks)
    index = dataset.load_index(make(tmp_path / "cut", tmp_path / "out", join_segments=True), "train")
    assert dict(zip(index.names, index.lengths.tolist(), strict=True)) == {names[0]: 40, names[2]: 50}


def test_a_surplus_frame_does_not_shift_the_next_segment(tmp_path):
    """The videos of two segments have one frame more than their actions (fidelity D1)."""
    names = cut_session(tmp_path, [0, 20, 60])
    expected = read(make(tmp_path / "cut", tmp_path / "before", join_segments=True), 0)
    for path in (tmp_path / "cut" / names[0], tmp_path / "cut" / names[1]):
        lines = path.with_name(path.name + ".jsonl").read_text().splitlines(keepends=True)
        with VideoWriter(path.with_name(path.name + ".mp4"), SIZE, SIZE) as video:
            for i in range(len(lines) + 1):
                video.write(np.full((SIZE, SIZE, 3), 2 * i, np.uint8))
    frames, buttons, camera = read(make(tmp_path / "cut", tmp_path / "out", join_segments=True), 0)
    np.testing.assert_array_equal(buttons, expected[1])
    np.testing.assert_array_equal(camera, expected[2])
    ramps = 2.0 * np.concatenate([np.arange(20), np.arange(40)])
    assert np.abs(frames[:60].mean((1, 2, 3)) - ramps).max() < 2
    np.testing.assert_array_equal(frames[60:], expected[0][60:])


def test_segments_are_not_joined_across_splits_or_from_manifests(tmp_path):
    names = cut_session(tmp_path, [0, 60, 120], frames=180)
    (tmp_path / "valid").mkdir()
    for suffix in (".mp4", ".jsonl"):
        (tmp_path / "cut" / f"{names[2]}{suffix}").rename(tmp_path / "valid" / f"{names[2]}{suffix}")
    (tmp_path / "cut").rename(tmp_path / "train")
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for split in ("train", "valid"):
        (tmp_path / split).rename(recordings / split)
    out = make(recordings, tmp_path / "out", join_segments=True)
    lengths = {split: dataset.load_index(out, split).lengths.tolist() for split in ("train", "valid")}
    assert lengths == {"train": [120], "valid": [60]}
    rows = {"video": [f"train/{name}.mp4" for name in names[:2]], "start": [0.0, 0.0], "end": [2.0, 3.0]}
    pq.write_table(pa.table(rows), recordings / "m.parquet")
    index = dataset.load_index(make(recordings / "m.parquet", tmp_path / "parts", join_segments=True), "train")
    assert index.lengths.tolist() == [40, 60]


def test_joining_is_part_of_the_settings_of_a_dataset(tmp_path, capsys):
    cut_session(tmp_path, [0, 20])
    out = make(tmp_path / "cut", tmp_path / "out", join_segments=True)
    before = files(out)
    make(tmp_path / "cut", out, join_segments=True)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(PrepareError, match=r"or config\.valid, config\.join_segments or .* did, or an earlier version"):
        make(tmp_path / "cut", out)
    assert files(out) == before
    shutil.rmtree(out)
    assert files(make(tmp_path / "cut", out, join_segments=True)) == before


def test_a_segment_with_a_flipped_byte_is_encoded_again(tmp_path, monkeypatch, capsys):
    """Checksums find it as segments are joined; damaged ones are encoded again, in one attempt."""
    names = cut_session(tmp_path, [0, 20, 60])
    uninterrupted = files(make(tmp_path / "cut", tmp_path / "uninterrupted", join_segments=True))
    with monkeypatch.context() as patch:
        patch.setattr("vpt_jax.data.prepare._join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "cut", tmp_path / "out", join_segments=True)
    for segment in names[:2]:
        (records,) = (tmp_path / "out.partial").glob(f"episodes/train/{segment}-*.records")
        data = bytearray(records.read_bytes())
        data[300] ^= 1
        records.write_bytes(data)
    assert files(make(tmp_path / "cut", tmp_path / "out", join_segments=True)) == uninterrupted
    assert "2 recordings are encoded again, since their intermediate files are damaged" in capsys.readouterr().out


def test_windows_of_an_idm_cross_a_seam(tmp_path):
    cut_session(tmp_path, [0, 20, 60])
    out = make(tmp_path / "cut", tmp_path / "out", join_segments=True)
    settings = StreamSettings(str(out), "train", batch=1, length=90, nulls="keep", shuffle=False)
    stream = WindowStream(replace(settings, shuffle=False))
    assert stream.window(0, 0).frame.tolist() == list(range(90))


def test_the_variant_house_takes_its_recorder_versions_and_holds_out_sessions(tmp_path):
    """Of a folder with recordings of several of the contractors' tasks (paper: `contractor_house`)."""
    (recorded,) = cut_session(tmp_path, [0], frames=20)
    kinds = [("8.0_", "a" * 12, 0), ("8.0_", "a" * 12, 300), ("8.0_", "b" * 12, 0), ("9.0_", "c" * 12, 0)]
    names = [name(seconds, session=session, version=version) for version, session, seconds in kinds]
    (tmp_path / "recordings").mkdir()
    for path in names:
        for suffix in (".mp4", ".jsonl"):
            shutil.copy(tmp_path / "cut" / f"{recorded}{suffix}", tmp_path / "recordings" / f"{path}{suffix}")
    config = get_config("house")
    config.update(recordings=str(tmp_path / "recordings"), out=str(tmp_path / "out"), height=SIZE, width=SIZE)
    out = prepare(config)
    train, valid = (set(dataset.load_index(out, split).names) for split in ("train", "valid"))
    assert {frozenset(train), frozenset(valid)} == {frozenset(names[:2]), frozenset(names[2:3])}
    config.update(recorder_versions=("8", "9"), out=str(tmp_path / "both"))
    out = prepare(config)
    splits = [set(dataset.load_index(out, split).names) for split in ("train", "valid")]
    assert set.union(*splits) == set(names)
    assert any(set(names[:2]) <= split for split in splits)
    config.recorder_versions = ("7", "0")
    with pytest.raises(PrepareError, match=r"the recordings are of 8\.0, 9\.0: the version is in"):
        prepare(config)
