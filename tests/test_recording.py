"""Recordings: reading compared with the reference's data loader (tests/golden/json_actions*), and writing."""

import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from vpt_jax import video
from vpt_jax.actions.minerl import BUTTON_INDEX, BUTTONS, ENV_KEYS
from vpt_jax.curation.download.contractor_index import local_name
from vpt_jax.recording import (
    GUI_MOUSE_SCALE,
    BrokenRecordingError,
    RecordingWriter,
    find_recordings,
    read_frames,
    read_steps,
)

GOLDEN = Path(__file__).parent / "golden"
LINES = (GOLDEN / "json_actions.jsonl").read_bytes().splitlines(keepends=True)
EXPECTED = json.loads((GOLDEN / "json_actions_expected.json").read_text())
TRAJECTORIES = {trajectory["name"]: trajectory for trajectory in EXPECTED["trajectories"]}
DIFFERENCES = {  # every step whose buttons differ from the reference's: (only ours, only the reference's)
    **dict.fromkeys(  # ESC in an open GUI
        [("gui_360p", 19), ("random0", 30), ("random0", 51), ("random1", 2), ("random2", 7)], ({"inventory"}, set())
    ),
    ("hotbar", 4): ({"hotbar.9"}, set()),  # a change of slot is an action, even alone in a record
    ("hotbar_from_first_record", 0): (set(), {"hotbar.4"}),  # the initial slot was not chosen in this step
    **dict.fromkeys([("random0", 0), ("random1", 0)], (set(), {"hotbar.3"})),  # nor were these
    ("random0", 10): (set(), {"hotbar.4"}),  # the slot follows its key, which was held one record earlier
}


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN / "json_actions_frames.npz")


def steps_of(folder, lines):
    (folder / "x.jsonl").write_bytes(b"".join(lines))
    return read_steps(folder / "x.jsonl")


def trajectory_steps(folder, name):
    first = TRAJECTORIES[name]["first_line"]
    return steps_of(folder, LINES[first : first + TRAJECTORIES[name]["n_records"]])


def names(buttons):
    return {name for name, held in zip(BUTTONS, buttons, strict=True) if held}


def record(**mouse):
    content = json.loads(LINES[0])
    content["mouse"] |= mouse
    return content


def line(content):
    return json.dumps(content).encode() + b"\n"


def reference_frame(trajectory, i):
    """Frame i of a golden trajectory, RGB, by the formula that the golden pictures are made with."""
    y, x, c = np.mgrid[: trajectory["frame_height"], : trajectory["frame_width"], :3]
    blocks = (x // 16 + y // 16 + c) % 3 * 60
    bgr = (7 * y + 5 * x + 85 * c + 31 * i + 57 * trajectory["number"] + x * y // 97 + blocks) % 256
    return np.ascontiguousarray(bgr[..., ::-1].astype(np.uint8))


def write_lossless(path, frames):
    """Writes an mp4 whose frames are decoded bit-exactly: lossless H.264 in RGB."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264rgb", rate=20, options={"qp": "0", "preset": "ultrafast"})
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def test_buttons_equal_the_references_except_for_listed_steps(tmp_path):
    found = {}
    for name, trajectory in TRAJECTORIES.items():
        steps = trajectory_steps(tmp_path, name)
        assert len(steps.buttons) == trajectory["n_records"]  # nulls are kept
        emitted = {entry["step"]: entry["action"] for entry in trajectory["emitted"]}
        for i in range(trajectory["n_frames"]):
            ours = names(steps.buttons[i])
            theirs = {name for name in BUTTONS if emitted.get(i, {}).get(name)}  # none where they drop the step
            if ours != theirs:
                found[name, i] = (ours - theirs, theirs - ours)
    assert found == DIFFERENCES


def test_camera_keeps_the_fraction_that_the_reference_truncates(tmp_path, golden):
    counts = golden["camera_scaling/dx"]
    camera = steps_of(tmp_path, [line(record(dx=dx, dy=-dx)) for dx in counts]).camera
    theirs = golden["camera_scaling/camera"]
    guarded = np.abs(counts) > 1200
    assert 3000 < guarded.sum() < len(counts)
    np.testing.assert_array_equal(np.trunc(camera[~guarded]), theirs[~guarded])
    np.testing.assert_allclose(camera[~guarded], np.stack([-counts, counts], -1)[~guarded] * 0.15, rtol=1e-6)
    assert (camera[guarded] == 0).all()  # the purpose of the guard, which has no effect in the reference:
    assert (np.abs(theirs[guarded]) >= 180).all()
    camera = steps_of(tmp_path, [line(record(dx=1201, dy=10)), line(record(dx=1200, dy=-1300))]).camera
    np.testing.assert_allclose(camera, [[1.5, 0], [0, 180]], rtol=1e-6)  # each axis by itself


def test_gui_mouse_is_scaled_by_the_version_in_the_path(tmp_path):
    """Records like OpenAI's, without a version: names of files, folders and downloads (fidelity D2)."""
    name = "cheeky-cornflower-setter-02e496ce4abb-20220421-092639"
    paths = {
        f"6.9_{name}": 2, f"5.7_{name}-0123456789abcdef": 0.5, f"6.8/{name}": 2, f"6.7/train/{name}": 2,
        "5.8_any take": 0.5, f"6.9/8.0_{name}": 1, f"6.10_{name}": 1, f"16.9_{name}": 1, name: 1, "6.9": 1,
        f"6.9/deep/{name}": 1, f"a6.9_{name}": 1, local_name(f"data/6.9/{name}.mp4"): 2, local_name(f"6.9/{name}"): 2,
        local_name(f"a mirror/data/6.9/{name}.mp4"): 2, local_name(f"data/6.9/{'y' * 200}.mp4"): 2,
        local_name(f"find-cave/{name}"): 1,
    }  # fmt: skip
    assert set(GUI_MOUSE_SCALE) == {"5.7", "5.8", "6.7", "6.8", "6.9"}
    content = record(dx=12, dy=44)
    lines = line(content | {"isGuiOpen": True}) + line(content)
    for path, scale in paths.items():
        jsonl = tmp_path / f"{path}.jsonl"
        jsonl.parent.mkdir(parents=True, exist_ok=True)
        jsonl.write_bytes(lines)
        camera = read_steps(jsonl).camera
        np.testing.assert_allclose(camera, np.array([[6.6, 1.8]]) * [[scale], [1]], rtol=1e-6, err_msg=path)


def test_gui_mouse_is_scaled_by_a_version_in_the_record(tmp_path):
    camera = trajectory_steps(tmp_path, "gui_360p").camera[16:19]  # dx 12, dy 44: 5.7 in a GUI, 6.8 in one, 6.8
    np.testing.assert_allclose(camera, np.array([[6.6, 1.8]]) * [[0.5], [2], [1]], rtol=1e-6)
    emitted = {entry["step"]: entry["action"]["camera"] for entry in TRAJECTORIES["gui_360p"]["emitted"]}
    assert [emitted[i] for i in (16, 17, 18)] == [[6, 1]] * 3


@pytest.mark.parametrize("name", ["gui_360p", "gui_720p", "mixed_keys"])
def test_frames_and_cursor_equal_the_references(tmp_path, golden, monkeypatch, name):
    monkeypatch.setattr(video, "CURSOR", golden["cursor_bgra"][..., [2, 1, 0, 3]])
    trajectory, steps = TRAJECTORIES[name], trajectory_steps(tmp_path, name)
    write_lossless(tmp_path / "x.mp4", [reference_frame(trajectory, i) for i in range(trajectory["n_frames"])])
    frames = list(read_frames(tmp_path / "x.mp4", steps, 128, 128))
    assert len(frames) == trajectory["n_frames"]
    for i in trajectory["frames_kept"]:
        np.testing.assert_array_equal(frames[i], golden[f"frame/{name}/{i}"], f"frame {i}")
    if name == "gui_360p":  # in the one null record with an open GUI only we draw the cursor
        assert set(np.flatnonzero(steps.gui_open)) - {int(i) for i in trajectory["cursor_drawn_at"]} == {15}
        assert (frames[15] != video.resize(reference_frame(trajectory, 15), 128, 128)).any()


def test_records_on_which_the_reference_fails_are_read(tmp_path):
    cases = EXPECTED["raising"]
    for name, case in cases.items():
        lines = [text.encode() for text in case["lines"]]
        if name == "no_newButtons_in_first_record":
            with pytest.raises(BrokenRecordingError, match=r"line 1: there is no mouse\.newButtons"):
                steps_of(tmp_path, lines)
            continue
        steps = steps_of(tmp_path, lines)
        assert len(steps.buttons) == sum(bool(text.strip()) for text in lines)
        write_lossless(tmp_path / "x.mp4", [np.full((360, 640, 3), 90, np.uint8)] * len(steps.buttons))
        frames = np.array(list(read_frames(tmp_path / "x.mp4", steps, 360, 640)))
        assert (frames != 90).any() == ("cursor" in name), name  # clipped, but drawn
    assert [name for name, case in cases.items() if case["raises"] is None] == ["no_newButtons_in_second_record"]


def hotbar_presses(folder, *records):
    """The slots (1 to 9) pressed in each record, given as (number keys, slot or None)."""
    contents = [record() | {"keyboard": {"keys": [f"key.keyboard.{key}" for key in keys]}} for keys, _ in records]
    for content, (_, slot) in zip(contents, records, strict=True):
        content["hotbar"] = slot
        if slot is None:
            del content["hotbar"]
    buttons = steps_of(folder, map(line, contents)).buttons
    return [[slot for slot in range(1, 10) if row[BUTTON_INDEX[f"hotbar.{slot}"]]] for row in buttons]


def test_slots_become_number_keys(tmp_path):
    assert hotbar_presses(tmp_path, ([], 4), ([], 4), ([], 5), ([], 4)) == [[], [], [6], [5]]  # wheel
    assert hotbar_presses(tmp_path, ([3], 0), ([], 2), ([], 2)) == [[3], [], []]  # the slot follows its key
    assert hotbar_presses(tmp_path, ([3], 0), ([3], 2), ([], 2)) == [[3], [3], []]
    assert hotbar_presses(tmp_path, ([3], 0), ([3], 6)) == [[3], [3, 7]]  # wheel while a key is held
    assert hotbar_presses(tmp_path, ([], 1), ([], None), ([], 1), ([], None), ([], 2)) == [[], [], [], [], [3]]
    assert hotbar_presses(tmp_path, ([2], None), ([], None)) == [[2], []]  # recorders before 6.11


BAD_LINES = {
    "cut short": (LINES[1][:200], "bad json", ""),
    "not an object": (b"[1, 2]\n", "bad json", "not an object"),
    "deeply nested": (b"[" * 100_000 + b"\n", "bad json", ""),
    "blank": (b"  \n", "empty line", ""),
    "no mouse": (line({"isGuiOpen": False}), "missing field", "keyboard.keys"),
    "no position in a GUI": (line({**record(), "isGuiOpen": True, "mouse": {"dx": 0, "dy": 0, "buttons": []}}),
                             "missing field", "mouse.x"),
    "not a number": (line(record(dx="3")), "bad value", "mouse.dx is '3'"),
    "not a list": (line(record(buttons=0)), "bad value", "mouse.buttons is 0"),
    "keys that are no names": (line(record() | {"keyboard": {"keys": [["w"]]}}), "bad value", "keyboard.keys"),
    "no slot": (line(record() | {"hotbar": 9}), "bad value", "hotbar is 9"),
    "not finite": (line(record(dx=float("nan"))), "absurd mouse", "mouse.dx is nan"),
    "infinite": (line(record(dy=float("-inf"))), "absurd mouse", "mouse.dy is -inf"),
    "absurd": (line(record(dx=40_000)), "absurd mouse", "mouse.dx is 40000"),
    "huge": (line(record(dx=10**400)), "absurd mouse", "mouse.dx is 1000"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_LINES)
def test_a_bad_line_is_named(tmp_path, case):
    bad, reason, words = BAD_LINES[case]
    with pytest.raises(BrokenRecordingError) as caught:
        steps_of(tmp_path, [LINES[0], bad, LINES[2]])
    assert caught.value.path == tmp_path / "x.jsonl"
    assert caught.value.reason == reason
    assert "line 2: " in caught.value.detail
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_files_without_records_are_refused(tmp_path):
    for lines in ([], [b"\n", b" \n"]):
        with pytest.raises(BrokenRecordingError, match="no records"):
            steps_of(tmp_path, lines)
    with pytest.raises(BrokenRecordingError, match="missing actions"):
        read_steps(tmp_path / "none.jsonl")
    with pytest.raises(BrokenRecordingError, match="missing video"):
        next(read_frames(tmp_path / "none.mp4", steps_of(tmp_path, LINES[:1]), 128, 128))


def film(count):
    ramp = np.add.outer(np.arange(72), np.arange(128))
    return [np.stack([ramp + 3 * i, ramp, 200 - ramp], -1).astype(np.uint8) for i in range(count)]


def random_actions(count):
    generator = np.random.default_rng(0)
    for i in range(count):
        action = {name: int(generator.random() < 0.3) for name in ENV_KEYS if "hotbar" not in name}
        action |= {"attack": 1, "use": 0, "pickItem": 0} if i == 0 else {}  # else it counts as a stuck button
        yield action | {"camera": generator.normal(0, 8, 2).astype(np.float32), f"hotbar.{i % 9 + 1}": i % 4 == 0}


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "player-1.take.2"
    with RecordingWriter(path, 72, 128) as writer:
        for i, (frame, action) in enumerate(zip(film(40), random_actions(40), strict=True)):
            writer.write(frame, action, hotbar=i // 39, gui_open=i % 10 == 9, cursor=(10.5 * i, 7 * i))
    return path


def read(path):
    steps = read_steps(Path(f"{path}.jsonl"))
    return steps, list(read_frames(Path(f"{path}.mp4"), steps, 72, 128))


def test_a_written_recording_is_read_back(recording):
    steps, frames = read(recording)
    (recording.parent / "a.mp4").touch()
    (recording.parent / "b.txt").touch()
    assert find_recordings(recording.parent) == [recording.parent / "a", recording]
    for i, action in enumerate(random_actions(40)):
        gui = i % 10 == 9
        expected = action | {"inventory": action["inventory"] or (gui and action["ESC"])}
        expected |= {"hotbar.2": 1} if i == 39 else {}  # the slot changed
        assert names(steps.buttons[i]) == {name for name in BUTTONS if expected.get(name)}
        np.testing.assert_array_equal(steps.camera[i], action["camera"])
        assert steps.gui_open[i] == gui
        assert steps.cursor[i].tolist() == ([10.5 * i, 7 * i] if gui else [0, 0])
    mice = [json.loads(text)["mouse"] for text in Path(f"{recording}.jsonl").read_text().splitlines()]
    for before, mouse in pairwise(mice):
        assert set(mouse["newButtons"]) == set(mouse["buttons"]) - set(before["buttons"])
    error = np.abs(np.array(frames, float) - film(40)).mean((1, 2, 3))
    assert error[~steps.gui_open].max() < 3  # of 255; each frame moves by 3
    assert error[~steps.gui_open].max() < error[steps.gui_open].min()  # the cursor


WRONG_STEPS = [
    ({"action": {"foward": 1}}, "foward"),
    ({"action": {"camera": [0, 181]}}, "camera"),
    ({"action": {"camera": [np.nan, 0]}}, "camera"),
    ({"action": {"camera": [1]}}, "camera"),
    ({"action": {}, "hotbar": 9}, "hotbar slot 9"),
    ({"action": {}, "cursor": (np.inf, 0)}, "cursor"),
    ({"action": {}, "frame": np.zeros((70, 128, 3), np.uint8)}, "takes frames"),
]


def test_an_invalid_step_is_refused_and_not_written(tmp_path):
    with RecordingWriter(tmp_path / "x", 72, 128) as writer:
        writer.write(film(1)[0], {"jump": 1})
        for wrong, message in WRONG_STEPS:
            with pytest.raises(ValueError, match=message):
                writer.write(**({"frame": film(1)[0]} | wrong))
    steps, frames = read(tmp_path / "x")
    assert len(steps.buttons) == len(frames) == 1


def test_a_failed_recording_leaves_no_file_and_a_complete_one_is_kept(recording):
    before = {path: path.read_bytes() for path in recording.parent.iterdir()}
    with pytest.raises(FileExistsError, match="remove it"):
        RecordingWriter(recording, 72, 128)
    with pytest.raises(KeyError), RecordingWriter(recording.with_name("y"), 72, 128) as writer:
        writer.write({}["no such frame"], {})
    with pytest.raises(ValueError, match="no frame"), RecordingWriter(recording.with_name("y"), 72, 128):
        pass
    assert {path: path.read_bytes() for path in recording.parent.iterdir()} == before


def test_a_killed_recorder_leaves_no_recording(tmp_path):
    program = (
        "import os, sys, numpy as np; from pathlib import Path; from vpt_jax.recording import RecordingWriter\n"
        "with RecordingWriter(Path(sys.argv[1]), 72, 128) as writer:\n"
        "    for _ in range(100): writer.write(np.zeros((72, 128, 3), np.uint8), {})\n"
        f"    os.kill(os.getpid(), {int(signal.SIGKILL)})\n"
    )
    path = tmp_path / "x"
    killed = subprocess.run([sys.executable, "-c", program, path], env=os.environ)
    assert killed.returncode == -signal.SIGKILL
    assert find_recordings(tmp_path) == []
    with RecordingWriter(path, 72, 128) as writer:
        writer.write(film(1)[0], {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.jsonl", "x.mp4"]


def test_a_film_that_does_not_match_its_steps_is_refused(recording):
    mp4, (steps, _) = Path(f"{recording}.mp4"), read(recording)
    good = mp4.read_bytes()
    for size in np.linspace(0, len(good) - 1, 30, dtype=int):
        mp4.write_bytes(good[:size])
        with pytest.raises(BrokenRecordingError, match=r"mp4: (unreadable video|damaged video|frame count): "):
            list(read_frames(mp4, steps, 72, 128))
    for count in (1, 39, 42, 43, 80):
        write_film(mp4, count)
        with pytest.raises(BrokenRecordingError, match=r"frame count: .*40 steps"):
            list(read_frames(mp4, steps, 72, 128))


def write_film(mp4, count):
    with video.VideoWriter(mp4, 72, 128) as writer:
        for frame in film(count):
            writer.write(frame)


@pytest.mark.parametrize("lines", [1, 2, 40])
def test_one_frame_more_than_lines_is_dropped_at_the_end(tmp_path, lines):
    """Frame i belongs to line i from the start, whether the film ends with the lines or a frame later (fidelity D1)."""
    mp4 = tmp_path / "x.mp4"
    steps = steps_of(tmp_path, [line(record() | {"isGuiOpen": True})] * lines)
    for count in (lines, lines + 1):
        write_film(mp4, count)
        frames = np.array(list(read_frames(mp4, steps, 72, 128)), float)[:, ::8, ::8]
        assert len(frames) == lines
        distance = np.abs(frames[:, None] - np.array(film(lines + 1))[:, ::8, ::8]).mean((2, 3, 4))
        np.testing.assert_array_equal(distance.argmin(1), np.arange(lines))
