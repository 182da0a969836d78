"""crowd-cast: MessagePack written by its own library reads back; uncaptured ranges are excluded; damage is named."""

import shutil

import msgpack
import numpy as np
import pytest

from tests.data.bridges.common_play import KEYS, RATE, make_play
from vpt_jax.data.bridges.crowd_cast import BRIDGE
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.key_names import RDEV_NAMES, W3C_CODES
from vpt_jax.recording import BrokenRecordingError

NAMES = {name: code for code, name in [*RDEV_NAMES.items(), *W3C_CODES.items()]}
BUTTONS = {"mouse.left": "Left", "mouse.right": "Right", "mouse.middle": "Middle"}


def events_of(play):
    """Events of a play, as the recorder writes them."""
    events, before = [[0, ["ContextChanged", ["game"]]]], np.zeros(len(KEYS), bool)
    for step, (held, moved) in enumerate(zip(play.held, play.mouse, strict=True)):
        time = step * 1_000_000 // RATE
        for key in np.flatnonzero(held != before).tolist():
            name, change = KEYS[key], "Press" if held[key] else "Release"
            if name in BUTTONS:
                events.append([time, [f"Mouse{change}", [BUTTONS[name], 540.0, 320.0]]])
            else:
                events.append([time, [f"Key{change}", [0, NAMES[name]]]])
        if moved.any():
            events.append([time, ["MouseMove", [float(value) for value in moved]]])
        before = held
    return events


def write(folder, name, play):
    """Writes a play as recording_NAME.mp4 and input_NAME.msgpack."""
    shutil.copy(play.video, folder / f"recording_{name}.mp4")
    (folder / f"input_{name}.msgpack").write_bytes(msgpack.packb(events_of(play)))


def read(folder, name):
    (found,) = BRIDGE.find(folder)
    return BRIDGE.read(found, BridgeOptions())[name]


def put(folder, events, play):
    write(folder, "abc_seg0001", play)
    data = events if isinstance(events, bytes) else msgpack.packb(events)
    (folder / "input_abc_seg0001.msgpack").write_bytes(data)


def listed(events):
    return list(zip(events.time.tolist(), [events.names[code] for code in events.code], events.value, strict=True))


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    return make_play(tmp_path_factory.mktemp("play"))


def test_a_segment_reads_back(play, tmp_path):
    write(tmp_path, "abc_seg0001", play)
    timed = read(tmp_path, "abc_seg0001")
    expected = []
    for time, (kind, data) in events_of(play)[1:]:
        if kind == "MouseMove":
            expected += [(time / 1e6, a, v) for a, v in zip(("mouse.x", "mouse.y"), data, strict=True) if v]
        else:
            name = f"mouse.{data[0].lower()}" if kind.startswith("Mouse") else (W3C_CODES | RDEV_NAMES)[data[1]]
            expected.append((time / 1e6, name, float(kind.endswith("Press"))))
    assert listed(timed.events) == expected
    assert (timed.facts, timed.excluded, timed.remarks) == ({"session": "abc"}, (), ())
    np.testing.assert_array_equal(np.stack([frame for _, frame in timed.frames()]), play.frames)
    assert BRIDGE.files(tmp_path / "input_abc_seg0001.msgpack") == [
        tmp_path / "input_abc_seg0001.msgpack", tmp_path / "recording_abc_seg0001.mp4",
    ]  # fmt: skip


def test_uncaptured_ranges_other_buttons_wheels_and_unknown_events(play, tmp_path):
    events = [
        [0, ["Metadata", [1920, 1080, 1.7, 1280, 720, 1.7, 0, 0, 0.0, "2026-11-30T00:00:00Z"]]],
        [500_000, ["ContextChanged", ["UNCAPTURED"]]], [600_000, ["ContextChanged", ["UNKNOWN"]]],
        [900_000, ["ContextChanged", ["game"]]], [1_000_000, ["MousePress", [{"Other": 8}, 1.0, 2.0]]],
        [1_100_000, ["MouseScroll", [0, -3, 540.0, 320.0]]], [1_200_000, ["KeyPress", [1233, "Unknown(233)"]]],
        [1_300_000, ["KeyPress", [0, "Num1"]]], [1_400_000, ["Gesture", [1]]],
        [2_000_000, ["ContextChanged", ["UNCAPTURED"]]],
    ]  # fmt: skip
    put(tmp_path, events, play)
    timed = read(tmp_path, "abc_seg0001")
    assert timed.excluded == ((0.5, 0.9), (2.0, float("inf")))
    assert listed(timed.events) == [
        (1.0, "mouse.8", 1), (1.1, "mouse.wheel", -3), (1.2, "key.Unknown(233)", 1), (1.3, "1", 1),
    ]  # fmt: skip
    assert timed.remarks == ("1 events of type Gesture are not read",)


GOOD = [0, ["KeyPress", [0, "KeyA"]]]
DAMAGE = {
    "not an array": ({"a": 1}, "unreadable actions"),
    "empty": (b"", "unreadable actions: it ends within event 0"),
    "text": (b"hello", "unreadable actions"),
    "cut": (msgpack.packb([GOOD] * 9)[:-3], "unreadable actions: it ends within event 8"),
    "too many stated": (b"\xdd\xff\xff\xff\xff", "absurd size: it states 4,294,967,295 events"),
    "many stated, none there": (b"\xdd\x00\xff\xff\xff", "it ends within event 0"),
    "huge text": (b"\x91\xdb\xff\xff\xff\xff", "unreadable actions: it ends within event 0"),
    "huge array": (b"\x91\xdd\xff\xff\xff\xff", "unreadable actions: event 0"),
    "nested": (b"\x91" * 5000, "unreadable actions: event 0"),
    "no type": ([[0, 5]], r"bad value: event 0 is \[0, 5\], not \[microseconds"),
    "time is text": ([["0", GOOD[1]]], "bad value: event 0"),
    "key is a number": ([GOOD, [1, ["KeyPress", [0, 5]]]], "bad value: event 1: the data of KeyPress"),
    "move without y": ([[1, ["MouseMove", [0.5]]]], "bad value: event 0: the data of MouseMove"),
    "move is true": ([[1, ["MouseMove", [True, 1]]]], "bad value: event 0: the data of MouseMove"),
    "button is a number": ([[1, ["MousePress", [1, 0.0, 0.0]]]], "bad value: event 0: the data of MousePress"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_files_are_named(kind, play, tmp_path):
    events, message = DAMAGE[kind]
    put(tmp_path, events, play)
    with pytest.raises(BrokenRecordingError, match=rf"input_abc_seg0001.msgpack: .*{message}"):
        read(tmp_path, "abc_seg0001")


def test_missing_files_are_named(play, tmp_path):
    write(tmp_path, "abc", play)
    (tmp_path / "recording_abc.mp4").unlink()
    with pytest.raises(BrokenRecordingError, match=r"missing video: there is no video of this segment"):
        read(tmp_path, "abc")
    for name in ("recording_abc.mp4", "abc.mkv"):
        shutil.copy(play.video, tmp_path / name)
    with pytest.raises(BrokenRecordingError, match=r"missing video: 2 videos are of this segment"):
        read(tmp_path, "abc")
    (tmp_path / "abc.mkv").unlink()
    (tmp_path / "input_abc.msgpack").unlink()
    with pytest.raises(BrokenRecordingError, match=r"abc.msgpack: missing actions"):
        read(tmp_path, "abc")
