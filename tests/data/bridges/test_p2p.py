"""Open-P2P recordings, written through Protocol Buffers: events with times, held keys per frame, exclusions, damage.

One message is assembled byte by byte, by the wire format and the field numbers of the recorder, so that the
schema in `p2p_schema.py` is not compared with itself alone.
"""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from tests.data.bridges.common_play import KEYS, RATE, CommonPlay, make_play
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.p2p import BRIDGE, key_name
from vpt_jax.data.bridges.p2p_schema import message
from vpt_jax.recording import BrokenRecordingError

NAMES = {"space": "Space", "left_shift": "LeftShift"}  # of the recorder; letters are the same
BUTTONS = {"mouse.left": "0", "mouse.right": "1"}
STEP = 1_000_000_000 // RATE  # nanoseconds


def write(folder: Path, name: str, play: CommonPlay) -> None:
    """Write the play as a folder: record i has what was done from frame i - 1 to frame i, as timed events too."""
    recording = message("Recording")()
    recording.metadata.id, recording.metadata.frames_per_second = name, RATE
    last = len(play.held) - 1
    for number in range(len(play.held)):
        record = recording.records.add(time=number * STEP)
        steps = [number - 1] * (number > 0) + [last] * (number == last)
        hold(record.player, play.held[steps[-1]] if steps else np.zeros(len(KEYS), bool))
        for step in steps:
            add_events(record, play, step)
    save(folder / name, recording, play.video)


def add_events(record, play, step):
    before = play.held[step - 1] if step else np.zeros(len(KEYS), bool)
    for key in np.flatnonzero(play.held[step] != before):
        event = record.events.add(time=step * STEP)
        if KEYS[key] in BUTTONS:
            event.button.button, event.button.pressed = BUTTONS[KEYS[key]], play.held[step, key]
        else:
            event.key.key, event.key.pressed = NAMES.get(KEYS[key], KEYS[key]), play.held[step, key]
    moved = record.events.add(time=step * STEP).moved
    moved.x, moved.y = play.mouse[step]


def hold(action, held, moved=(0, 0)):
    action.known = True
    names = [key for key, down in zip(KEYS, held, strict=True) if down]
    action.keyboard.keys.extend(NAMES.get(key, key) for key in names if key not in BUTTONS)
    action.mouse.buttons.extend(BUTTONS[key] for key in names if key in BUTTONS)
    action.mouse.moved.x, action.mouse.moved.y = moved


def save(folder, recording, video, name="192x192.mp4"):
    folder.mkdir(exist_ok=True)
    shutil.copy(video, folder / name)
    (folder / "annotation.proto").write_bytes(recording.SerializeToString())


def read(folder):
    (play,) = BRIDGE.read(folder, BridgeOptions()).values()
    return play


def listed(play):
    events = play.events
    return [(time, events.names[code], value) for time, code, value in zip(*events[2:], strict=True)]


def steps_of(play, steps):
    held, mouse = np.zeros((steps, len(KEYS)), bool), np.zeros((steps, 2), int)
    for time, name, value in listed(play):
        step = round(time * RATE)
        if name in KEYS:
            held[step:, KEYS.index(name)] = value
        else:
            mouse[step, int(name == "mouse.y")] += int(value)
    return held, mouse


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    return make_play(tmp_path_factory.mktemp("common"), steps=20)


def test_the_common_play_comes_back_with_events_of_their_own_times(common, tmp_path):
    write(tmp_path, "common", common)
    assert BRIDGE.find(tmp_path) == [tmp_path / "common"]
    assert [path.name for path in BRIDGE.files(tmp_path / "common")] == ["annotation.proto", "192x192.mp4"]
    play = read(tmp_path / "common")
    held, mouse = steps_of(play, 20)
    assert np.array_equal(held, common.held)
    assert np.array_equal(mouse, common.mouse)
    frames = list(play.frames())
    assert np.allclose([time for time, _ in frames], np.arange(20) / RATE, rtol=0, atol=1e-12)
    assert np.array_equal([frame for _, frame in frames], common.frames)
    assert (play.remarks, play.excluded, play.facts) == ((), (), {"session": "common"})


def test_without_events_the_record_of_a_frame_is_the_step_that_ends_with_it(common, tmp_path):
    recording = message("Recording")()
    for number in range(20):
        step = max(number - 1, 0)
        hold(recording.records.add().player, common.held[step], common.mouse[step] if number else (9, 9))
    save(tmp_path / "old", recording, common.video)
    play = read(tmp_path / "old")
    held, mouse = steps_of(play, 20)
    assert np.array_equal(held[:19], common.held[:19])
    assert np.array_equal(mouse[:19], common.mouse[:19])
    assert not mouse[19].any()  # what follows the last frame is not recorded
    assert play.remarks[0] == "frames without times: taken at 20 per second"


def test_held_keys_correct_events_that_were_lost(common, tmp_path):
    recording = message("Recording")()
    for number, held in enumerate((("w",), ("w",), (), ())):
        record = recording.records.add(time=number * STEP)
        hold(record.player, [key in held for key in KEYS])
    event = recording.records[1].events.add(time=STEP // 2)
    event.key.key, event.key.pressed = "Space", True  # released, by the held keys, before frame 1
    event = recording.records[2].events.add(time=STEP + 1, by_model=True)
    event.key.key, event.key.pressed = "a", True
    save(tmp_path / "lost", recording, common.video)
    play = read(tmp_path / "lost")
    assert listed(play) == [(0, "w", 1), (0.025, "space", 1), (0.05, "space", 0), (0.1, "w", 0)]
    assert play.remarks == ("2 lost presses and releases",)


def test_stretches_of_a_model_or_of_no_known_action_are_excluded(common, tmp_path):
    recording = message("Recording")()
    for number in range(6):
        record = recording.records.add(time=number * STEP)
        hold(record.player, [key == "w" for key in KEYS])
        record.player.known = number != 5
        record.model.known = number in (2, 3)
    save(tmp_path / "model", recording, common.video)
    play = read(tmp_path / "model")
    assert np.allclose(play.excluded, [(1 / RATE, 3 / RATE), (4 / RATE, 5 / RATE)])
    assert [value for _, _, value in listed(play)] == [1, 0, 1, 0]


def number(field, value):
    """A field of wire type 0, by the rules of Protocol Buffers."""
    return varint(field << 3) + varint(value)


def nested(field, content):
    return varint(field << 3 | 2) + varint(len(content)) + content


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def test_the_bytes_of_a_recorder_are_read(common, tmp_path):
    moved = nested(5, number(1, 300) + number(2, 2**64 - 7))  # a delta; negative numbers have ten bytes
    events = [
        nested(9, nested(2, nested(1, b"LeftShift") + number(2, 1)) + number(6, 5_000_000)),
        nested(9, nested(1, nested(1, b"2") + number(2, 1)) + number(6, 6_000_000)),
        nested(9, moved + number(6, 7_000_000)),
        nested(9, nested(4, number(2, 1)) + number(6, 8_000_000)),
        nested(9, nested(8, nested(1, b"left_stick_x")) + number(6, 9_000_000)),  # a game pad: skipped
    ]
    held = nested(1, nested(2, nested(1, b"LeftShift")) + number(3, 1) + nested(4, nested(9, b"2")))
    first = nested(3, nested(1, number(3, 1)) + number(8, 1_000_000))
    second = nested(3, held + number(8, 50_000_000) + b"".join(events))
    env = nested(6, nested(1, b"roblox") + nested(2, b"rivals"))
    metadata = nested(2, nested(1, b"0f3e") + nested(3, b"p17") + b"\x2d" + struct.pack("<f", 20) + env)
    folder = tmp_path / "made"
    save(folder, message("Recording")(), common.video, "video.mp4")
    (folder / "annotation.proto").write_bytes(metadata + number(6, 4) + first + second + nested(9, number(1, 3)))
    play = read(folder)
    assert listed(play) == [
        (0.005, "left_shift", 1), (0.006, "mouse.middle", 1), (0.007, "mouse.x", 300), (0.007, "mouse.y", -7),
        (0.008, "mouse.wheel", 1),
    ]  # fmt: skip
    assert play.facts == {"session": "0f3e", "player": "p17", "game": "roblox/rivals"}


def test_names_of_keys():
    named = ("w", "1", "F5", "UpArrow", "LeftControl", "GraveAccent", "PageDown", "Kp7", "Divide", "LeftWin", "Escape")
    assert [key_name(name) for name in named] == [
        "w", "1", "f5", "up", "left_control", "grave", "page_down", "keypad_7", "keypad_divide", "left_meta", "escape",
    ]  # fmt: skip
    assert key_name("VolumeUp") == "key.VolumeUp"


def broken(folder, reason):
    with pytest.raises(BrokenRecordingError) as error:
        list(read(folder).frames())
    assert error.value.reason == reason
    return str(error.value)


def test_damage_is_named(common, tmp_path):
    write(tmp_path, "a", common)
    folder, actions = tmp_path / "a", tmp_path / "a" / "annotation.proto"
    whole = actions.read_bytes()
    actions.write_bytes(whole[:-3])
    assert "cut short" in broken(folder, "unreadable actions")
    actions.write_bytes(b"\x07" + whole)
    assert "byte 0 begins no field" in broken(folder, "unreadable actions")
    actions.write_bytes(b"\xff" * 20)
    broken(folder, "unreadable actions")
    actions.write_bytes(nested(3, b"\x0a\x05abc"))
    assert "record 0 is damaged" in broken(folder, "unreadable actions")
    actions.write_bytes(varint(3 << 3 | 2) + varint(2**40))
    broken(folder, "absurd size")
    actions.write_bytes(b"")
    broken(folder, "no records")
    actions.unlink()
    broken(folder, "missing actions")


def test_records_and_frames_must_agree(common, tmp_path):
    recording = message("Recording")()
    for step in range(17):
        hold(recording.records.add(time=step * STEP).player, common.held[step])
    save(tmp_path / "a", recording, common.video)
    assert "20 frames, but 17 records" in broken(tmp_path / "a", "frame count")
    recording.records.add().player.mouse.moved.x = 2**30
    save(tmp_path / "a", recording, common.video)
    recording.records[17].player.known = True
    save(tmp_path / "a", recording, common.video)
    assert "record 17: mouse.x 1073741824" in broken(tmp_path / "a", "absurd mouse")


def test_a_recording_needs_one_video(common, tmp_path):
    write(tmp_path, "a", common)
    (tmp_path / "a" / "192x192.mp4").rename(tmp_path / "a" / "one.mp4")
    assert BRIDGE.files(tmp_path / "a")[1].name == "one.mp4"
    shutil.copy(common.video, tmp_path / "a" / "two.mp4")
    broken(tmp_path / "a", "missing video")
