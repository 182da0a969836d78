"""Datasets from bridges: the same play in every format is the same dataset to the byte; cuts, splits, broken files."""

import json
import re
from collections import Counter
from contextlib import nullcontext
from fractions import Fraction
from importlib import import_module, util

import av
import numpy as np
import pytest

from configs import foundation
from configs.prepare import get_config
from tests import programs
from tests.conftest import files
from tests.data.bridges import test_event_table
from tests.data.bridges.common_play import KEYS, make_play
from tests.data.bridges.test_event_table import rows_of, write_rows
from vpt_jax.actions.quantizer import AxisQuantizer
from vpt_jax.actions.space import ActionSpace, Axis
from vpt_jax.actions.spaces import DOOM
from vpt_jax.data import bridged, codecs, dataset
from vpt_jax.data.bridges.registry import BRIDGES
from vpt_jax.data.entries import DatasetEntry
from vpt_jax.data.prepare import PrepareError, prepare
from vpt_jax.data.trainable import NotTrainableError, require_trainable
from vpt_jax.programs.supervised import open_stream
from vpt_jax.recording import BrokenRecordingError, RecordingWriter
from vpt_jax.video import VideoWriter

FORMATS = tuple(BRIDGES)
FIELDS = {"csgo": {"frames_per_second": 20.0}}  # it stores no times, and its own rate is 16
REMARKS = {"csgo": ["the mouse is known by bins only"]}  # what a format cannot do better
SIZE, CHUNK = 32, 8
AXES = tuple(Axis(name, quantizer=AxisQuantizer(100, 10, None)) for name in ("yaw", "pitch"))
SPACE = ActionSpace("shooter", tuple(key.replace("mouse.", "button ") for key in KEYS), AXES)
MAPPING = {
    "keys": {key: key.replace("mouse.", "button ") for key in KEYS},
    "axes": {"mouse.x": {"to": "yaw", "factor": 0.15}, "mouse.y": {"to": "pitch", "factor": 0.15}},
}


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    return make_play(tmp_path_factory.mktemp("play"))


@pytest.fixture(scope="module")
def space_files(tmp_path_factory):
    """Paths of the JSON files of the space and the mapping."""
    folder = tmp_path_factory.mktemp("space")
    (folder / "space.json").write_text(json.dumps(SPACE.to_dict()))
    (folder / "mapping.json").write_text(json.dumps(MAPPING))
    return {"space": str(folder / "space.json"), "mapping": str(folder / "mapping.json")}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Runs all tasks in this process, which starts faster than workers do."""

    def run(function, tasks):
        return [(number, function(*task)) for number, task in enumerate(tasks)]

    monkeypatch.setattr("vpt_jax.data.prepare._workers", lambda *_: nullcontext(run))


def settings(recordings, out, space_files, **changes):
    config = get_config()
    config.update(recordings=str(recordings), out=str(out), height=SIZE, width=SIZE, chunk_frames=CHUNK, **space_files)
    config.update(changes)
    return config


def report_of(out):
    return json.loads((out / "report.json").read_text())


def without_report(out):
    return {name: data for name, data in files(out).items() if name != "report.json"}


@pytest.fixture(scope="module")
def expected(play):
    """Actions of the play in the space."""
    return play.held.astype(np.uint8), (play.mouse * 0.15).astype(np.float32)


@pytest.mark.parametrize("source", FORMATS)
def test_the_same_play_is_the_same_dataset_in_every_format(source, play, space_files, expected, tmp_path):
    outs = []
    for number, name in enumerate((source, "event_table")):
        module = f"tests.data.bridges.test_{name}"  # has `write(folder, name, play)`
        if util.find_spec(module) is None:
            pytest.skip(f"{module} does not exist")
        recordings = tmp_path / f"recordings{number}"
        recordings.mkdir()
        import_module(module).write(recordings, "take1", play)
        outs.append(prepare(settings(recordings, tmp_path / f"out{number}", space_files, **FIELDS.get(name, {})), name))
    index = dataset.load_index(outs[0], "train")
    assert index.names == ("take1",)
    assert index.space == SPACE
    np.testing.assert_array_equal(index.buttons, expected[0])
    np.testing.assert_array_equal(index.camera, expected[1])
    assert without_report(outs[0]) == without_report(outs[1])
    assert report_of(outs[0])["plays"][0]["remarks"] == REMARKS.get(source, [])


def test_frames_and_actions_are_stored(play, space_files, expected, tmp_path):
    (tmp_path / "in").mkdir()
    test_event_table.write(tmp_path / "in", "take1", play)
    out = prepare(settings(tmp_path / "in", tmp_path / "out", space_files, height=192, width=192), "event_table")
    records = dataset.open_records(out, "train")
    parts = [records[number] for number in range(len(records))]
    np.testing.assert_array_equal(np.concatenate([part["camera"] for part in parts]), expected[1])
    np.testing.assert_array_equal(np.concatenate([part["buttons"] for part in parts]), expected[0])
    frames = [codecs.decode_frames(p["frames"], p["frame_ends"], range(len(p["frame_ends"]))) for p in parts]
    error = np.abs(np.concatenate(frames).astype(int) - play.frames).mean((1, 2, 3))
    assert error.max() < 3
    prepare(settings(tmp_path / "in", tmp_path / "out", space_files, height=192, width=192), "event_table")
    (tmp_path / "in" / "take1.json").write_text('{"player": "anna"}')
    with pytest.raises(PrepareError, match="recordings changed since"):
        prepare(settings(tmp_path / "in", tmp_path / "out", space_files, height=192, width=192), "event_table")


def variable_rate(folder, play, rng):
    """Writes the play at a variable frame rate: each frame is shown twice, the first for 10 to 40 ms."""
    with av.open(str(folder / "take1.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options={"crf": "1", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *play.frames.shape[1:3], "yuv420p"
        for step, picture in enumerate(play.frames):
            for time in (50 * step, 50 * step + int(rng.integers(10, 40))):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_variable_frame_rate_gives_the_same_steps(play, space_files, expected, tmp_path):
    (tmp_path / "in").mkdir()
    variable_rate(tmp_path / "in", play, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    rows = [(time + rng.uniform(0, 0.049) * (event == "move"), event, *rest) for time, event, *rest in rows_of(play)]
    write_rows(tmp_path / "in" / "take1.csv", rows)
    out = prepare(settings(tmp_path / "in", tmp_path / "out", space_files), "event_table")
    index = dataset.load_index(out, "train")
    np.testing.assert_array_equal(index.buttons[:60], expected[0])
    np.testing.assert_array_equal(index.camera[:60], expected[1])
    records = dataset.open_records(out, "train")
    frames = codecs.decode_frames(records[0]["frames"], records[0]["frame_ends"], range(CHUNK))
    brightness, shown = (pictures[..., 2].mean((1, 2)) for pictures in (frames, play.frames[:CHUNK]))
    np.testing.assert_allclose(brightness, shown, atol=1.5)  # it rises by 4 per step


def test_pauses_cut_a_recording_and_broken_ones_are_listed(play, space_files, expected, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("bad", "cut", "none", "whole"):
        test_event_table.write(folder, name, play)
    write_rows(folder / "cut.csv", [*rows_of(play), (1.01, "pause", "", ""), (1.53, "resume", "", "")])
    write_rows(folder / "none.csv", [(-1, "pause", "", "")])
    (folder / "bad.csv").write_text("time,event\n")
    out = prepare(settings(folder, tmp_path / "out", space_files), "event_table")
    index, report = dataset.load_index(out, "train"), report_of(out)
    assert index.names == ("cut@0-20", "cut@31-60", "whole")
    assert index.lengths.tolist() == [20, 29, 60]
    np.testing.assert_array_equal(index.camera[:49], np.concatenate([expected[1][:20], expected[1][31:]]))
    assert [(note["file"], note["reason"]) for note in report["broken"]] == [
        ("bad.csv", "unreadable actions"), ("none", "too short"),
    ]  # fmt: skip
    assert report["splits"] == {"train": {"episodes": 3, "frames": 109, "broken": 2}}
    assert report["recorded"]["train"]["versions"] == {"event_table": 3}
    cut = report["plays"][0]
    assert (cut["name"], cut["excluded"], cut["episodes"]) == ("cut", [[1.01, 1.53]], ["cut@0-20", "cut@31-60"])
    assert "left out for 'too short': 1" in capsys.readouterr().out


def test_whole_seconds_mouse_factors_and_remarks(play, space_files, expected, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("coarse", "fast", "slow"):
        test_event_table.write(folder, name, play)
    write_rows(
        folder / "coarse.csv", [(int(time), *rest) for time, *rest in rows_of(play) * 2] + [(9, "press", "q", "")]
    )
    (folder / "fast.json").write_text('{"mouse_factor": 2}')
    write_rows(folder / "slow.csv", [*rows_of(play), (1.0, "press", "q", "")])
    (tmp_path / "factors.json").write_text('{"slow": 0.5}')
    changes = {"mouse_factors": str(tmp_path / "factors.json")}
    out = prepare(settings(folder, tmp_path / "out", space_files, **changes), "event_table")
    index, report = dataset.load_index(out, "train"), report_of(out)
    assert [(note["file"], note["reason"]) for note in report["broken"]] == [("coarse", "whole seconds")]
    assert index.names == ("fast", "slow")
    np.testing.assert_allclose(index.camera[:60], 2 * expected[1])
    np.testing.assert_allclose(index.camera[60:], 0.5 * expected[1])
    remarks = report["plays"][1]["remarks"]
    assert remarks[0].startswith("never released")
    assert remarks[1:] == ["not in the mapping: q (1)"]
    (tmp_path / "factors.json").write_text('{"slow": -1}')
    with pytest.raises(PrepareError, match=r"config.mouse_factors: the factor of 'slow' is -1, not above 0"):
        prepare(settings(folder, tmp_path / "out", space_files, **changes), "event_table")


def short(folder, name, facts):
    """A recording of half a second."""
    with VideoWriter(str(folder / f"{name}.mp4"), 16, 16) as writer:
        for _ in range(10):
            writer.write(np.zeros((16, 16, 3), np.uint8))
    write_rows(folder / f"{name}.csv", [(0.1, "press", "w", ""), (0.2, "release", "w", "")])
    (folder / f"{name}.json").write_text(json.dumps(facts))


@pytest.mark.parametrize("by", ["player", "session", "world"])
def test_no_player_session_or_world_is_in_two_splits(by, space_files, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        facts = {"player": f"p{number // 2}", "session": f"s{number // 2}", "world": f"w{number // 4}"}
        short(folder, f"take{number}", facts if number else facts | {"session": "s9"})
    config = settings(folder, tmp_path / "out", space_files, height=8, width=8)
    config.valid.update(fraction=0.3, by=by, seed=1)
    out = prepare(config, "event_table")
    report = report_of(out)
    facts = {play["name"]: play["facts"] for play in report["plays"]}
    names = {split: dataset.load_index(out, split).names for split in ("train", "valid")}
    assert {play["name"] for play in report["plays"] if play["split"] == "valid"} == {*names["valid"]}
    assert sorted(names["train"] + names["valid"]) == sorted(facts)
    for unit in (by, "session"):
        sides = [{facts[name][unit] for name in names[split]} for split in names]
        assert not sides[0] & sides[1]


def test_what_is_not_trainable_is_left_out_or_refused(space_files, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    short(folder, "free", {"licence": "CC0-1.0", "trainable": True})
    short(folder, "secret", {"licence": "none", "trainable": False})
    out = prepare(settings(folder, tmp_path / "out", space_files, height=8, width=8), "event_table")
    assert dataset.load_index(out, "train").names == ("free",)
    assert report_of(out)["left_out_as_untrainable"] == ["secret"]
    assert report_of(out)["plays"][0]["facts"] == {"licence": "CC0-1.0", "trainable": True}
    assert "left out as not trainable: secret" in capsys.readouterr().out
    require_trainable(out)
    changes = {"include_untrainable": True, "height": 8, "width": 8}
    out = prepare(settings(folder, tmp_path / "both", space_files, **changes), "event_table")
    assert dataset.load_index(out, "train").names == ("free", "secret")
    with pytest.raises(NotTrainableError, match=r"both has recordings .* not trainable: secret. .*leave out --config"):
        require_trainable(out)


def test_an_interrupted_run_resumes_to_the_same_bytes(play, space_files, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        short(folder, f"take{number}", {"player": f"p{number}"})
    once = prepare(settings(folder, tmp_path / "once", space_files, height=8, width=8), "event_table")
    encode, calls = bridged.encode_bridged, Counter()

    def interrupted(recordings, *rest):
        calls["encoded"] += 1
        if calls["encoded"] == 3:
            raise KeyboardInterrupt
        return encode(recordings, *rest)

    monkeypatch.setattr("vpt_jax.data.prepare.encode_bridged", interrupted)
    config = settings(folder, tmp_path / "out", space_files, height=8, width=8)
    with pytest.raises(KeyboardInterrupt):
        prepare(config, "event_table")
    for file in (tmp_path / "out.partial" / "episodes" / "train").glob("take1*.episodes"):
        file.write_text("[")  # damaged: encoded again
    capsys.readouterr()
    prepare(config, "event_table")
    assert re.search(r"1 of 3 recordings are done already", capsys.readouterr().out)
    assert calls["encoded"] == 5
    assert files(tmp_path / "out") == files(once)


def test_sources_and_folders_that_do_not_fit_are_named(play, space_files, tmp_path):
    (tmp_path / "in").mkdir()
    config = settings(tmp_path / "in", tmp_path / "out", space_files)
    with pytest.raises(PrepareError, match=r"there are no recordings of the format owl_control in"):
        prepare(config, "owl_control")
    with pytest.raises(PrepareError, match=r"--source is 'tape'; choose one of recordings, event_table, owl_control"):
        prepare(config, "tape")
    config.join_segments = True
    with pytest.raises(PrepareError, match=r"config.join_segments joins segments of OpenAI's format only"):
        prepare(config, "event_table")
    config.update(join_segments=False, frames_per_second=-1.0)
    with pytest.raises(PrepareError, match=r"config.frames_per_second is -1.0, and must be from 0 to 1000"):
        prepare(config, "event_table")


def openai(folder, name, facts=None):
    """A recording of half a second in OpenAI's format."""
    with RecordingWriter(folder / name, 16, 16) as recording:
        for step in range(10):
            keys = {"forward": 1, "sprint": step % 2, "hotbar.4": int(step == 5), "camera": np.array([1.5, -3.0])}
            recording.write(np.zeros((16, 16, 3), np.uint8), keys)
    if facts is not None:
        (folder / f"{name}.json").write_text(json.dumps(facts))


def test_openais_recordings_are_mapped_to_another_space_and_joined(tmp_path):
    (tmp_path / "in").mkdir()
    for time in ("100000", "100001"):
        openai(tmp_path / "in", f"doomguy-0123456789ab-20261130-{time}")
    spaces = {"space": "doom", "mapping": "minerl-to-doom"}
    outs = [
        prepare(settings(tmp_path / "in", tmp_path / f"out{join}", spaces, height=8, width=8, join_segments=join))
        for join in (False, True)
    ]
    index, joined = (dataset.load_index(out, "train") for out in outs)
    assert index.space == joined.space == DOOM
    assert (index.lengths.tolist(), joined.lengths.tolist()) == ([10, 10], [20])
    held = {key: joined.buttons[:10, number].tolist() for key, number in DOOM.key_index.items()}
    assert held["forward"] == [1] * 10
    assert held["run"] == [0, 1] * 5
    assert held["weapon.4"] == [0] * 5 + [1] + [0] * 4
    assert sum(map(sum, held.values())) == 16
    np.testing.assert_allclose(joined.camera, np.tile([1.5, -3.0], (20, 1)), rtol=1e-6)
    np.testing.assert_array_equal(index.buttons, joined.buttons)
    assert report_of(outs[0])["settings"]["mapping"]["keys"]["hotbar.4"] == "weapon.4"
    with pytest.raises(PrepareError, match=r"was made with other settings: mapping was .*Remove it"):
        prepare(settings(tmp_path / "in", outs[0], {"space": "doom"}, height=8, width=8))


def test_facts_beside_openais_recordings(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    facts = {f"take{number}": {"player": f"p{number // 2}", "licence": "CC0-1.0"} for number in range(4)}
    facts["secret"] = {"player": "p9", "trainable": False}
    for name, one in facts.items():
        openai(folder, name, one)
    openai(folder, "plain")
    out = prepare(settings(folder, tmp_path / "out", {}, height=8, width=8))
    names = {split: set(dataset.load_index(out, split).names) for split in ("train", "valid")}
    assert names["valid"] in ({"take0", "take1"}, {"take2", "take3"})
    assert names["train"] | names["valid"] == {*facts, "plain"} - {"secret"}
    report = report_of(out)
    assert (report["left_out_as_untrainable"], report["facts"]) == (["secret"], facts)
    out = prepare(settings(folder, tmp_path / "both", {}, height=8, width=8, include_untrainable=True))
    with pytest.raises(NotTrainableError, match="not trainable: secret"):
        require_trainable(out)
    (folder / "take0.json").write_text('{"trainabel": false}')
    with pytest.raises(BrokenRecordingError, match=r"take0.json: .*unknown fields trainabel"):
        prepare(settings(folder, tmp_path / "again", {}, height=8, width=8))


def test_training_refuses_what_is_not_trainable(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    openai(folder, "secret", {"trainable": False})
    with pytest.raises(PrepareError, match="all 1 recordings are marked as not trainable: secret"):
        prepare(settings(folder, tmp_path / "out", {}, height=8, width=8))
    out = prepare(settings(folder, tmp_path / "out", {}, height=8, width=8, include_untrainable=True))
    config = foundation.get_config("demo")
    config.data.length = 4
    with pytest.raises(NotTrainableError, match="not trainable: secret"):
        open_stream(config, DatasetEntry("", str(out)), "train", 1, None)


def test_the_program_prepares_other_formats_for_any_number_of_workers(space_files, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        short(folder, f"take{number}", {"player": f"p{number}"})
    once = prepare(settings(folder, tmp_path / "once", space_files, height=8, width=8), "event_table")
    sizes = {"height": 8, "width": 8, "chunk_frames": CHUNK, "workers": 3}
    fields = space_files | {"recordings": folder, "out": tmp_path / "out"} | sizes
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    output = programs.run("prepare", "--source=event_table", *flags)
    assert "train: 2 episodes of 20 frames, 0 broken recordings" in output
    assert files(tmp_path / "out") == files(once)
