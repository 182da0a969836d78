"""Labels exported as LeRobot v3: files and values as LeRobot looks them up, and our reader gets the same actions.

LeRobot itself needs PyTorch. `lookup` does what its `LeRobotDataset.__getitem__` does: row by index, frame by time.
"""

import json

import av
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from vpt_jax.curation.export.run import export
from vpt_jax.curation.validation.episodes import find_episodes, read_frames
from vpt_jax.data.bridges import export_lerobot
from vpt_jax.data.bridges.exported import ExportError
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.lerobot import BRIDGE
from vpt_jax.data.bridges.pairing import pair_actions

from .conftest import SPACES, write_labels

CAMERA = "observation.images.screen"
TOLERANCE = 1e-4  # seconds: LeRobot's own


@pytest.fixture
def small_files(monkeypatch):
    """So few frames in a file that the first two episodes share one, and the third has its own."""
    monkeypatch.setattr(export_lerobot, "FILE_FRAMES", 62)


def lookup(out, index):
    """Row and frame of the dataset at an index over all episodes."""
    info = json.loads((out / "meta/info.json").read_text())
    episodes = pq.read_table(out / "meta/episodes").to_pylist()
    tables = [pq.read_table(path) for path in sorted((out / "data").rglob("*.parquet"))]
    row = [row for table in tables for row in table.to_pylist()][index]
    episode = episodes[row["episode_index"]]
    prefix = f"videos/{CAMERA}/"
    video = out / info["video_path"].format(
        video_key=CAMERA, chunk_index=episode[prefix + "chunk_index"], file_index=episode[prefix + "file_index"]
    )
    wanted = episode[prefix + "from_timestamp"] + row["timestamp"]
    with av.open(str(video)) as container:
        frames = [(float(frame.time), frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    time, picture = min(frames, key=lambda pair: abs(pair[0] - wanted))
    assert abs(time - wanted) < TOLERANCE
    return row, picture


def test_lerobots_lookups_find_every_action_and_frame(labels, settings, small_files):
    name, data = labels
    out = export(settings(data, format="lerobot", task="mine"))
    episodes, start = find_episodes(data), 0
    for number, episode in enumerate(episodes):
        frames = read_frames(episode, 0, episode.frames)
        for step in (0, 3, episode.frames - 1):
            row, picture = lookup(out, start + step)
            position = episode.rows.start + step
            actions = np.concatenate([episode.index.buttons[position], episode.index.camera[position]])
            np.testing.assert_array_equal(np.array(row["action"], np.float32), actions.astype(np.float32))
            assert row["confidence"] == episode.index.confidence[position]
            assert (row["episode_index"], row["frame_index"], row["index"]) == (number, step, start + step)
            np.testing.assert_array_equal(picture, frames[step])
        start += episode.frames
    info = json.loads((out / "meta/info.json").read_text())
    assert (info["total_frames"], info["total_episodes"], info["fps"]) == (67, 3, 20)
    assert info["splits"] == {"train": "0:2", "valid": "2:3"}
    names = [*SPACES[name].keys, *(axis.name for axis in SPACES[name].axes)]
    assert info["features"]["action"] == {"dtype": "float32", "shape": [len(names)], "names": names}
    assert info["features"][CAMERA]["shape"] == [16, 24, 3]
    assert len(list(out.rglob("*.mp4"))) == 2


def test_our_reader_gets_the_same_actions_and_frames(labels, settings, small_files):
    name, data = labels
    out = export(settings(data, format="lerobot"))
    assert BRIDGE.find(out) == [out]
    plays = BRIDGE.read(out, BridgeOptions())
    assert list(plays) == ["train/a", "train/sub/b@3-20", "valid/c"]
    for episode in find_episodes(data):
        play = plays[str(episode)]
        frames = list(play.frames())
        paired = pair_actions(play, out, frames[0][0], len(frames), SPACES[name])
        np.testing.assert_array_equal(paired.buttons, episode.index.buttons[episode.rows])
        np.testing.assert_array_equal(paired.camera, episode.index.camera[episode.rows])
        np.testing.assert_array_equal([f for _, f in frames], read_frames(episode, 0, episode.frames))
        assert dict(play.facts) == {"session": str(episode), "text": "Play the game.", "labels": "predicted"}


def test_statistics_are_those_of_the_whole_dataset(labels, settings, small_files):
    _, data = labels
    out = export(settings(data, format="lerobot"))
    stats = json.loads((out / "meta/stats.json").read_text())
    episodes = find_episodes(data)
    actions = np.concatenate(
        [np.concatenate([e.index.buttons[e.rows], e.index.camera[e.rows]], 1) for e in episodes]
    ).astype(np.float64)
    for statistic in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["action"][statistic], getattr(actions, statistic)(0), rtol=1e-6)
    np.testing.assert_allclose(stats["action"]["q10"], np.quantile(actions, 0.1, axis=0), rtol=1e-6)
    assert stats["action"]["count"] == [67]
    pictures = np.concatenate([read_frames(e, 0, e.frames)[::10] for e in episodes]) / 255
    for statistic in ("min", "max", "mean", "std"):
        expected = getattr(pictures, statistic)((0, 1, 2)).reshape(3, 1, 1)
        np.testing.assert_allclose(stats[CAMERA][statistic], expected, rtol=1e-6)
    assert 0 <= stats[CAMERA]["q50"][0][0][0] <= 1
    assert stats["index"]["max"] == [66]


def test_tables_are_those_of_duckdb_and_pandas(labels, settings):
    """pandas is not installed: the schema's metadata name its index, as it writes them."""
    out = export(settings(labels[1], format="lerobot", task="mine"))
    rows = duckdb.read_parquet(f"{out}/data/*/*.parquet").aggregate("max(index), sum(confidence) > 0").fetchall()
    assert rows == [(66, True)]
    tasks = pq.read_table(out / "meta/tasks.parquet")
    pandas = json.loads(tasks.schema.metadata[b"pandas"])
    assert pandas["index_columns"] == ["__index_level_0__"]
    assert tasks.to_pylist() == [{"task_index": 0, "__index_level_0__": "mine"}]


def test_a_second_run_writes_only_what_is_missing(labels, settings, small_files, tmp_path):
    config = settings(labels[1], format="lerobot")
    out = export(config)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    times = {path: path.stat().st_mtime_ns for path in before}
    (out / "meta/info.json").unlink()
    (out / "data/chunk-000/file-001.parquet").unlink()
    export(config)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    unchanged = ("data/chunk-000/file-000.parquet", f"videos/{CAMERA}/chunk-000/file-000.mp4")
    assert all((out / path).stat().st_mtime_ns == times[out / path] for path in unchanged)
    elsewhere = settings(labels[1], format="lerobot", out=str(tmp_path / "again"))
    again = export(elsewhere)
    same = {path.relative_to(again): path.read_bytes() for path in again.rglob("*") if path.is_file()}
    assert same == {path.relative_to(out): data for path, data in before.items()}


def test_odd_sizes_and_lossy_videos(settings, tmp_path):
    data = write_labels(tmp_path / "odd", SPACES["other"], (17, 23))
    out = export(settings(data, format="lerobot", crf=10))
    info = json.loads((out / "meta/info.json").read_text())["features"][CAMERA]["info"]
    assert info["video.pix_fmt"] == "yuv444p"
    with av.open(str(out / f"videos/{CAMERA}/chunk-000/file-000.mp4")) as container:
        assert container.streams.video[0].codec_context.pix_fmt == "yuv444p"
    _, picture = lookup(out, 3)
    assert np.abs(picture.astype(int) - read_frames(find_episodes(data)[0], 3, 4)[0]).mean() < 4


def test_units_depend_on_the_lengths_alone():
    plan = export_lerobot.plan_units([30_000, 42_000, 1, 80_000, 5])
    assert [(unit.place.file, unit.first, unit.stop, unit.first_row) for unit in plan] == [
        (0, 0, 2, 0), (1, 2, 3, 72_000), (2, 3, 4, 72_001), (3, 4, 5, 152_001),
    ]  # fmt: skip
    assert export_lerobot.plan_units([80_000] * 1001)[1000].place == (1, 0)
    assert export_lerobot.plan_units([]) == []


def test_another_dataset_is_not_mixed_in(labels, settings, tmp_path):
    config = settings(labels[1], format="lerobot")
    export(config)
    other = write_labels(tmp_path / "other", SPACES[labels[0]], (18, 24))  # other frames of the same names and actions
    with pytest.raises(ExportError, match="was made with other settings: dataset was"):
        export(settings(other, format="lerobot"))
    export(settings(write_labels(tmp_path / "equal", SPACES[labels[0]]), format="lerobot"))
