"""OWL Control: quoted and unquoted tables read back; the last START counts; every damage is named."""

import json
import shutil

import numpy as np
import pytest

from tests.data.bridges.common_play import KEYS, RATE, make_play
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.key_names import VIRTUAL_KEYS
from vpt_jax.data.bridges.owl_control import BRIDGE
from vpt_jax.recording import BrokenRecordingError

START = 1_764_000_000.123456
CODES = {name: code for code, name in reversed(VIRTUAL_KEYS.items())}
METADATA = {"game_exe": "game.exe", "session_id": "0f2e", "hardware_id": "pc-7", "duration": 3.0, "start_timestamp": 1}


def rows_of(play):
    """Rows (Unix time, type, arguments) of a play, as the recorder writes them."""
    rows, before = [(START, "START", [])], np.zeros(len(KEYS), bool)
    for step, (held, moved) in enumerate(zip(play.held, play.mouse, strict=True)):
        time = START + step / RATE
        for key in np.flatnonzero(held != before).tolist():
            kind = "MOUSE_BUTTON" if KEYS[key].startswith("mouse.") else "KEYBOARD"
            rows.append((time, kind, [CODES[KEYS[key]], bool(held[key])]))
        if moved.any():
            rows.append((time, "MOUSE_MOVE", moved.tolist()))
        before = held
    return [*rows, (START + len(play.held) / RATE, "END", [])]


def write(folder, name, play, quoted=True):
    """Writes a play as the folder NAME with video.mp4, inputs.csv and metadata.json."""
    write_rows(folder / name, rows_of(play), quoted)
    shutil.copy(play.video, folder / name / "video.mp4")
    (folder / name / "metadata.json").write_text(json.dumps(METADATA))


def write_rows(session, rows, quoted=True):
    session.mkdir(exist_ok=True)
    quote = '"' if quoted else ""
    lines = [f"{time!r},{kind},{quote}{json.dumps(arguments)}{quote}\n" for time, kind, arguments in rows]
    (session / "inputs.csv").write_text("timestamp,event_type,event_args\n" + "".join(lines))


def read(folder, name):
    (found,) = BRIDGE.find(folder)
    return BRIDGE.read(found, BridgeOptions())[name]


def listed(events):
    return list(
        zip(events.time.round(5).tolist(), [events.names[code] for code in events.code], events.value, strict=True)
    )


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    return make_play(tmp_path_factory.mktemp("play"))


@pytest.mark.parametrize("quoted", [True, False])
def test_a_session_reads_back(quoted, play, tmp_path):
    write(tmp_path, "session", play, quoted)
    timed = read(tmp_path, "session")
    expected = []
    for time, kind, (first, *rest) in rows_of(play)[1:-1]:
        time = round(time - START, 5)
        if kind == "MOUSE_MOVE":
            moved = zip(("mouse.x", "mouse.y"), (first, *rest), strict=True)
            expected += [(time, axis, value) for axis, value in moved if value]
        else:
            expected.append((time, VIRTUAL_KEYS[first], float(rest[0])))
    assert listed(timed.events) == expected
    assert timed.facts == {"session": "0f2e", "game": "game.exe", "player": "pc-7"}
    assert timed.remarks == ()
    np.testing.assert_array_equal(np.stack([frame for _, frame in timed.frames()]), play.frames)


def test_the_last_start_is_the_first_frame_and_gamepads_are_counted(play, tmp_path):
    rows = [
        (100.0, "START", []), (101.5, "START", []), (102.0, "KEYBOARD", [0x10, True]),
        (102.25, "KEYBOARD", [233, True]),
        (102.5, "SCROLL", [-120]), (103.0, "GAMEPAD_AXIS", [1, 0.5]), (103.0, "GAMEPAD_BUTTON", [1, True]),
        (104.0, "FOCUS", {"a": 1}), (105.0, "MOUSE_BUTTON", [6, False]),
    ]  # fmt: skip
    write_rows(tmp_path / "session", rows)
    shutil.copy(play.video, tmp_path / "session" / "recording.mp4")
    timed = read(tmp_path, "session")
    assert listed(timed.events) == [
        (0.5, "left_shift", 1), (0.75, "key.233", 1), (1.0, "mouse.wheel", -120), (3.5, "mouse.x2", 0),
    ]  # fmt: skip
    assert timed.remarks == ("2 events of a gamepad are not read", "1 events of type FOCUS are not read")
    assert timed.facts == {}


def test_a_table_without_start_begins_with_its_first_row(play, tmp_path):
    write_rows(tmp_path / "session", [(100.0, "KEYBOARD", [65, True]), (101.0, "KEYBOARD", [65, False])])
    shutil.copy(play.video, tmp_path / "session" / "recording.mp4")
    timed = read(tmp_path, "session")
    assert timed.events.time.tolist() == [0, 1]
    assert timed.remarks == ("START is missing: the video is taken to begin with the first row",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("noon,KEYBOARD,\"[65, true]\"", "line 2: noon"),
        ('1.0,KEYBOARD', "missing field: line 2: it must have timestamp,event_type,event_args"),
        ('1.0,KEYBOARD,"[65, true', "bad value: line 2"),
        ('1.0,KEYBOARD,"[65]"', r"line 2: the arguments of KEYBOARD must be \[int, bool\], and are \[65\]"),
        ('1.0,KEYBOARD,"[65, 1]"', r"must be \[int, bool\]"),
        ('1.0,MOUSE_MOVE,"[true, 1]"', r"must be \[int, int\]"),
        ('1.0,MOUSE_MOVE,"{}"', r"must be \[int, int\]"),
        ('1.0,SCROLL,"[1.5]"', r"must be \[int\]"),
        ("1.0,MOUSE_MOVE,[1, " + "9" * 400 + "]", "absurd size: line 2: the arguments of MOUSE_MOVE go beyond 32767"),
        ("1.0,SCROLL,[-32768]", "absurd size: line 2: the arguments of SCROLL go beyond 32767"),
        ("1.0,MOUSE_MOVE," + "[" * 900, "bad value: line 2"),
        ("1.0,MOUSE_MOVE," + "a" * 2000, "absurd size: line 2: longer than 1000 bytes"),
    ],
)  # fmt: skip
def test_damaged_tables_are_named(line, message, play, tmp_path):
    write(tmp_path, "session", play)
    (tmp_path / "session" / "inputs.csv").write_text("timestamp,event_type,event_args\n" + line + "\n")
    with pytest.raises(BrokenRecordingError, match=f"session/inputs.csv: .*{message}"):
        read(tmp_path, "session")


def test_missing_files_are_named(play, tmp_path):
    write(tmp_path, "session", play)
    (tmp_path / "session" / "metadata.json").write_text("{")
    with pytest.raises(BrokenRecordingError, match=r"metadata.json: bad json"):
        read(tmp_path, "session")
    (tmp_path / "session" / "metadata.json").unlink()
    (tmp_path / "session" / "video.mp4").unlink()
    with pytest.raises(BrokenRecordingError, match=r"video.mp4: missing video"):
        read(tmp_path, "session")
    shutil.copy(play.video, tmp_path / "session" / "video.mp4")
    (tmp_path / "session" / "inputs.csv").unlink()
    assert BRIDGE.find(tmp_path) == []
    with pytest.raises(BrokenRecordingError, match=r"inputs.csv: missing actions"):
        BRIDGE.read(tmp_path / "session", BridgeOptions())
