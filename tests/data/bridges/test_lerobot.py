"""LeRobot v3 datasets. LeRobot needs PyTorch, so its layout is written here with pyarrow and PyAV, as version 0.4 does.

Per episode a row group in the data file and a row in the table of episodes; videos are encoded by SVT-AV1 and joined
without encoding again; float32 time stamps begin anew in each episode.
"""

import json
import shutil
from fractions import Fraction

import av
import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.bridges.common_play import KEYS, RATE, make_play
from vpt_jax.data.bridges.given_facts import read_recording
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.lerobot import BRIDGE
from vpt_jax.recording import BrokenRecordingError

SOURCE = "lerobot"
CAMERA = "observation.images.screen"
NAMES = (*KEYS, "mouse.x", "mouse.y")


def write(folder, name, play):
    """Writes the play as the only episode of a dataset, `folder`/`name`."""
    out = folder / name
    actions = np.concatenate([play.held, play.mouse], 1).astype(np.float32)
    video = out / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    video.parent.mkdir(parents=True)
    shutil.copy(play.video, video)
    write_tables(out, [actions], [(0, 0, 0.0)], NAMES, (192, 192))
    return out


def write_tables(out, episodes, places, names, size, features=None, columns=None):
    """Writes all but the videos.

    Args:
        out: the dataset.
        episodes: actions of each.
        places: file of the data and of the video, and start in seconds in the video, of each.
        names: of the action's elements.
        size: of the frames.
        features: more of them.
        columns: values of more columns, by name, with their types.
    """
    row, rows, writers = 0, [], {}
    schema = pa.schema(
        [("action", pa.list_(pa.float32(), len(names))), ("timestamp", pa.float32())]
        + [(key, pa.int64()) for key in ("frame_index", "episode_index", "index", "task_index")]
        + [(key, kind) for key, (kind, _) in (columns or {}).items()]
    )
    for number, (actions, (data, video, start)) in enumerate(zip(episodes, places, strict=True)):
        length = len(actions)
        frame = np.arange(length)
        table = {
            "action": pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), len(names)),
            "timestamp": (frame / RATE).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(length, number),
            "index": row + frame,
            "task_index": np.zeros(length, np.int64),
        } | {key: values[number] for key, (_, values) in (columns or {}).items()}
        path = out / f"data/chunk-000/file-{data:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path not in writers:
            writers[path] = pq.ParquetWriter(path, schema, compression="snappy")
        writers[path].write_table(pa.table(table, schema=schema))
        rows.append(
            {"episode_index": number, "tasks": ["dig a hole"], "length": length, "data/chunk_index": 0,
             "data/file_index": data, "dataset_from_index": row, "dataset_to_index": row + length,
             f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": video,
             f"videos/{CAMERA}/from_timestamp": start, f"videos/{CAMERA}/to_timestamp": start + length / RATE,
             "stats/action/min": [0.0], "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        )  # fmt: skip
        row += length
    for writer in writers.values():
        writer.close()
    table = out / "meta/episodes/chunk-000/file-000.parquet"
    table.parent.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), table)
    described = {
        "action": {"dtype": "float32", "shape": [len(names)], "names": list(names)},
        CAMERA: {"dtype": "video", "shape": [*size, 3], "names": ["height", "width", "channels"]},
    }
    info = {
        "codebase_version": "v3.0", "robot_type": None, "fps": RATE, "total_episodes": len(episodes),
        "total_frames": row, "chunks_size": 1000, "splits": {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": described | (features or {}),
    }  # fmt: skip
    (out / "meta/info.json").write_text(json.dumps(info))


def encode_av1(path, levels):
    """Frames of one grey level each, as LeRobot encodes them."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libsvtav1", RATE, options={"g": "2", "crf": "30", "preset": "10"})
        stream.pix_fmt, stream.width, stream.height = "yuv420p", 64, 64
        for level in levels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), level, np.uint8))))
        container.mux(stream.encode())


def join(parts, path):
    """Joins videos without encoding, each after the end of the one before."""
    with av.open(str(path), "w", options={"movflags": "faststart"}) as target:
        stream, offset = None, Fraction(0)
        for part in parts:
            with av.open(str(part)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = target.add_stream_from_template(video, opaque=True)
                    stream.time_base = video.time_base
                for packet in source.demux(video):
                    if packet.dts is not None:
                        packet.pts += int(offset / video.time_base)
                        packet.dts += int(offset / video.time_base)
                        packet.stream = stream
                        target.mux(packet)
                offset += video.duration * video.time_base


@pytest.fixture(scope="module")
def three_episodes(tmp_path_factory):
    """Three episodes, of which the first two share their files."""
    folder = tmp_path_factory.mktemp("lerobot")
    out = folder / "three"
    videos = out / f"videos/{CAMERA}/chunk-000"
    videos.mkdir(parents=True)
    rng = np.random.default_rng(0)
    lengths, levels = (11, 13, 7), []
    for number, length in enumerate(lengths):
        levels.append(40 + 15 * np.arange(length))
        encode_av1(folder / f"{number}.mp4", levels[-1])
    join([folder / "0.mp4", folder / "1.mp4"], videos / "file-000.mp4")
    shutil.copy(folder / "2.mp4", videos / "file-001.mp4")
    actions = [
        np.concatenate([rng.integers(0, 2, (length, 2)), rng.normal(0, 5, (length, 1))], 1).astype(np.float32)
        for length in lengths
    ]
    write_tables(out, actions, [(0, 0, 0.0), (0, 0, 11 / RATE), (1, 1, 0.0)], ("w", "fire", "turn"), (64, 64))
    return out, actions, levels


def play_actions(found, names, length):
    """Actions of each step as a matrix, by simple loops."""
    matrix = np.zeros((length, len(names)))
    for time, code, value in zip(found.events.time, found.events.code, found.events.value, strict=True):
        step, element = round(time * RATE), names.index(found.events.names[code])
        matrix[step : None if code < found.events.num_keys else step + 1, element] = value
    return matrix


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    return make_play(tmp_path_factory.mktemp("play"))


def test_keys_mouse_and_frames_are_those_of_the_play(tmp_path, play):
    out = write(tmp_path, "one", play)
    assert BRIDGE.find(tmp_path) == BRIDGE.find(out) == [out]
    plays = BRIDGE.read(out, BridgeOptions())
    assert list(plays) == ["one"]
    found = plays["one"]
    np.testing.assert_array_equal(
        play_actions(found, NAMES, 60), np.concatenate([play.held, play.mouse], 1).astype(float)
    )
    assert found.events.names[: found.events.num_keys] == tuple(sorted(KEYS))
    frames = list(found.frames())
    np.testing.assert_array_equal([frame for _, frame in frames], play.frames)
    np.testing.assert_array_equal([time for time, _ in frames], np.arange(60) / RATE)
    assert dict(found.facts) == {"session": "one", "text": "dig a hole"}
    assert found.remarks == ()


def test_episodes_that_share_files_keep_their_own_rows_and_frames(three_episodes):
    out, actions, levels = three_episodes
    plays = BRIDGE.read(out, BridgeOptions())
    assert list(plays) == [f"three-episode_00000{number}" for number in range(3)]
    for found, rows, grey in zip(plays.values(), actions, levels, strict=True):
        np.testing.assert_array_equal(play_actions(found, ("w", "fire", "turn"), len(rows)), rows.astype(np.float64))
        means = np.array([frame.mean() for _, frame in found.frames()])
        assert len(means) == len(grey)
        assert np.abs(means - grey).max() < 5  # one frame further it is 15
        assert found.events.names == ("fire", "w", "turn")
        assert found.remarks == ("by their values, keys: w, fire; axes: turn (meta/vpt.json may say otherwise)",)
    files = {file.relative_to(out).as_posix() for file in BRIDGE.files(out)}
    assert files == {
        "meta/info.json", "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet",
        "data/chunk-000/file-001.parquet", f"videos/{CAMERA}/chunk-000/file-000.mp4",
        f"videos/{CAMERA}/chunk-000/file-001.mp4",
    }  # fmt: skip


def edited(source, tmp_path, edit, file="meta/info.json"):
    """A copy of a dataset, whose JSON file is changed by a function."""
    out = tmp_path / "edited"
    shutil.copytree(source, out)
    values = json.loads((out / file).read_text()) if (out / file).exists() else {}
    edit(values)
    (out / file).write_text(json.dumps(values))
    return out


def read_all(out):
    plays = BRIDGE.read(out, BridgeOptions())
    return {name: (found.events, list(found.frames())) for name, found in plays.items()}


def test_the_user_names_keys_and_axes(three_episodes, tmp_path):
    source, actions, _ = three_episodes
    mapping = {"keys": {"w": "up"}, "axes": {"turn": "mouse.x", "fire": "mouse.y"}}
    out = edited(source, tmp_path, lambda values: values.update(mapping), "meta/vpt.json")
    found = BRIDGE.read(out, BridgeOptions())["edited-episode_000001"]
    assert (found.events.names, found.events.num_keys, found.remarks) == (("up", "mouse.x", "mouse.y"), 1, ())
    expected = actions[1][:, [0, 2, 1]].astype(np.float64)
    np.testing.assert_array_equal(play_actions(found, found.events.names, 13), expected)


@pytest.mark.parametrize(
    ("mapping", "problem"),
    [
        ({"keys": ["jump"]}, r"have no 'jump', only: fire, turn, w"),
        ({"keys": ["w"], "axes": ["w"]}, r"'w' is a key and an axis"),
        ({"keys": "w"}, r"`keys` is not a list of names"),
        ({"video": "wrist"}, rf"name the camera in meta/vpt.json.*: {CAMERA}"),
    ],
)
def test_impossible_mappings_are_named(three_episodes, tmp_path, mapping, problem):
    out = edited(three_episodes[0], tmp_path, lambda values: values.update(mapping), "meta/vpt.json")
    with pytest.raises(BrokenRecordingError, match=problem):
        read_all(out)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"codebase_version": "v2.1"}, r"bad value: `codebase_version` is 'v2.1', and v3.0 is read"),
        ({"fps": 0}, r"bad value: `fps` is '0'"),
        ({"fps": 10}, r"frame count"),  # the video has 20
        ({"data_path": "../{chunk_index}.parquet"}, r"leads out of the dataset's folder"),
        ({"data_path": "/etc/passwd"}, r"leads out of the dataset's folder"),
        ({"data_path": "{chunk_index.__class__}"}, r"bad value: `data_path`"),
        ({"data_path": "{chunk_index:0999999999d}"}, r"bad value: `data_path`"),
        ({"video_path": "videos/absent.mp4"}, r"missing video: no such file"),
        ({"features": {}}, r"missing video: `features` has no video"),
        ({"features": 3}, r"missing field: `features`"),
    ],
)
def test_impossible_descriptions_are_named(three_episodes, tmp_path, change, problem):
    out = edited(three_episodes[0], tmp_path, lambda values: values.update(change))
    with pytest.raises(BrokenRecordingError, match=problem):
        read_all(out)


def test_two_cameras_need_a_choice(three_episodes, tmp_path):
    def add(values):
        values["features"]["observation.images.wrist"] = {"dtype": "video", "shape": [64, 64, 3], "names": None}

    out = edited(three_episodes[0], tmp_path, add)
    with pytest.raises(
        BrokenRecordingError, match=r"name the camera in meta/vpt\.json.*screen, observation\.images\.wrist"
    ):
        read_all(out)
    (out / "meta/vpt.json").write_text(json.dumps({"video": CAMERA}))
    assert len(read_all(out)) == 3


def test_rows_of_another_episode_are_noticed(three_episodes, tmp_path):
    source, actions, _ = three_episodes
    for places, problem in (
        ([(0, 0, 0.0), (1, 0, 0.0), (0, 0, 0.0)], r"file-000\.parquet: frame count: row"),
        ([(0, 0, 0.0), (0, 0, 9.0), (1, 1, 0.0)], r"frame count: file-000.mp4 shows nothing at 9.000 s"),
    ):
        out = tmp_path / str(places[1])
        shutil.copytree(source / "videos", out / "videos")
        write_tables(out, actions, places, ("w", "fire", "turn"), (64, 64))
        if "row" in problem:  # the table of episodes now says that file 0 holds episodes 0 and 1
            table = source / "meta/episodes/chunk-000/file-000.parquet"
            shutil.copy(table, out / "meta/episodes/chunk-000/file-000.parquet")
        with pytest.raises(BrokenRecordingError, match=problem):
            read_all(out)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_named(three_episodes, tmp_path, value):
    source, actions, _ = three_episodes
    changed = [rows.copy() for rows in actions]
    changed[1][4, 2] = value
    shutil.copytree(source / "videos", tmp_path / "out/videos")
    write_tables(
        tmp_path / "out", changed, [(0, 0, 0.0), (0, 0, 11 / RATE), (1, 1, 0.0)], ("w", "fire", "turn"), (64, 64)
    )
    with pytest.raises(BrokenRecordingError, match=r"bad value: episode 1: a value is not a finite number"):
        read_all(tmp_path / "out")


def test_images_in_the_data_files_and_several_actions(tmp_path):
    """As with `use_videos=False`: each image is a PNG file in a struct; a bool feature of its own is a key."""
    pictures = [np.full((8, 6, 3), level, np.uint8) for level in (0, 90, 200)]
    images = [{"bytes": cv2.imencode(".png", picture)[1].tobytes(), "path": None} for picture in pictures]
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"picture": (struct, [images]), "action.jump": (pa.bool_(), [[False, True, True]])}
    features = {
        CAMERA: {"dtype": "string", "shape": [1], "names": None},
        "picture": {"dtype": "image", "shape": [8, 6, 3], "names": ["height", "width", "channel"]},
        "action.jump": {"dtype": "bool", "shape": [1], "names": None},
    }
    actions = np.array([[0.5], [0.0], [-1.0]], np.float32)
    write_tables(tmp_path, [actions], [(0, 0, 0.0)], ("turn",), (8, 6), features, columns)
    (found,) = BRIDGE.read(tmp_path, BridgeOptions()).values()
    np.testing.assert_array_equal([frame for _, frame in found.frames()], pictures)
    assert found.events.names == ("action.jump", "turn")
    np.testing.assert_array_equal(
        play_actions(found, found.events.names, 3), np.array([[0, 0.5], [1, 0], [1, -1]], np.float64)
    )


def test_damaged_tables_are_named(three_episodes, tmp_path):
    for file in ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"):
        out = tmp_path / file.replace("/", "_")
        shutil.copytree(three_episodes[0], out)
        (out / file).write_bytes((out / file).read_bytes()[:200])
        with pytest.raises(BrokenRecordingError, match="unreadable actions: not an intact Parquet file"):
            read_all(out)


def test_a_damaged_episode_leaves_the_others_intact(three_episodes, tmp_path):
    """Its play raises when its frames are read; keys and axes are those of the intact episodes."""
    source, actions, _ = three_episodes
    out = tmp_path / "three"
    shutil.copytree(source, out)
    (out / "data/chunk-000/file-001.parquet").unlink()
    found = dict(BRIDGE.read(out, BridgeOptions()))
    assert len(found) == 3
    np.testing.assert_array_equal(
        play_actions(found["three-episode_000001"], ("w", "fire", "turn"), 13), actions[1].astype(np.float64)
    )
    with pytest.raises(BrokenRecordingError, match=r"file-001\.parquet: missing actions: no such file"):
        next(found["three-episode_000002"].frames())


def test_facts_of_the_whole_dataset(three_episodes, tmp_path):
    facts = {"facts": {"player": "anna", "trainable": False, "mouse_factor": 2, "excluded": [[0.5, 0.6]]}}
    facts["episode_facts"] = {"edited-episode_000001": {"player": "bob", "licence": "CC0-1.0", "excluded": [[0, 0.1]]}}
    out = edited(three_episodes[0], tmp_path, lambda values: values.update(facts), "meta/vpt.json")
    (tmp_path / "edited.json").write_text('{"world": "w1"}')
    plays = read_recording("lerobot", out)
    assert dict(plays["edited-episode_000002"].facts) == {
        "session": "edited-episode_000002", "player": "anna", "trainable": False, "text": "dig a hole",
        "mouse_factor": 2, "world": "w1",
    }  # fmt: skip
    other = plays["edited-episode_000001"]
    assert (other.facts["player"], other.facts["licence"], other.facts["trainable"]) == ("bob", "CC0-1.0", False)
    assert other.excluded == ((0.0, 0.1), (0.5, 0.6))


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"facts": {"trainable": "false"}}, "`trainable` must be true or false"),
        ({"facts": {"trainable": 0}}, "`trainable` must be true or false"),
        ({"facts": {"mouse_factor": "0.5"}}, "`mouse_factor` must be a number above 0"),
        ({"facts": {"trainabel": False}}, "unknown fields trainabel"),
        ({"facts": {"start": 3}}, "`start` must be left out"),
        ({"facts": []}, "the facts are not an object"),
        ({"episode_facts": []}, "`episode_facts`: it is not an object"),
        ({"episode_facts": {"other": {}}}, "`episode_facts`: there is no episode 'other'"),
        ({"episode_facts": {"edited-episode_000001": {"trainable": 1}}}, "`trainable` must be true or false"),
    ],
)
def test_invalid_facts_are_named(three_episodes, tmp_path, facts, problem):
    out = edited(three_episodes[0], tmp_path, lambda values: values.update(facts), "meta/vpt.json")
    with pytest.raises(BrokenRecordingError, match=rf"vpt\.json: bad value: {problem}"):
        BRIDGE.read(out, BridgeOptions())


@pytest.mark.parametrize(
    "file", ["data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet", "meta/info.json"]
)
def test_changed_bytes_are_an_error_or_another_dataset(three_episodes, tmp_path, file):
    out = tmp_path / "three"
    shutil.copytree(three_episodes[0], out)
    data, rng = (out / file).read_bytes(), np.random.default_rng(0)
    errors = 0
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.integers(len(data))] = rng.integers(256)
        (out / file).write_bytes(changed)
        try:
            next(next(iter(BRIDGE.read(out, BridgeOptions()).values())).frames())
        except BrokenRecordingError:
            errors += 1
    assert errors > 5
