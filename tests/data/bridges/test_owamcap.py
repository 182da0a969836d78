"""OWAMcap recordings, written with the format's own library: `mcap-owa-support` and the messages of `owa-msgs`."""

import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.data.bridges.common_play import KEYS, RATE, CommonPlay, make_play
from vpt_jax.data.bridges import owamcap_events
from vpt_jax.data.bridges.given_facts import read_recording
from vpt_jax.data.bridges.interface import BridgeOptions
from vpt_jax.data.bridges.key_names import VIRTUAL_KEYS
from vpt_jax.data.bridges.owamcap import BRIDGE
from vpt_jax.data.bridges.pairing import checked_events
from vpt_jax.recording import BrokenRecordingError

# owa-msgs needs opencv-python, which overwrites opencv-python-headless, so that it is installed without what it needs:
# pip install --no-deps owa-msgs "mediaref<2"
keyboard = pytest.importorskip("owa.msgs.desktop.keyboard", reason="pip install --no-deps owa-msgs 'mediaref<2'")
mouse = pytest.importorskip("owa.msgs.desktop.mouse")
screen = pytest.importorskip("owa.msgs.desktop.screen")
window = pytest.importorskip("owa.msgs.desktop.window")
from mcap_owa.highlevel import OWAMcapWriter  # noqa: E402

SOURCE = "owamcap"
START = 1_764_500_000_123_456_789
STEP = 10**9 // RATE
CODES = {name: code for code, name in sorted(VIRTUAL_KEYS.items())}
DOWN_BITS = {"mouse.left": 1, "mouse.right": 4}


def write(folder, name, play):
    """Writes the play with its video beside it; presses that were held before are not repeated."""
    shutil.copy(play.video, folder / f"{name}.mp4")
    with OWAMcapWriter(folder / f"{name}.mcap") as writer:
        write_messages(writer, play, lambda step: {"uri": f"{name}.mp4", "pts_ns": step * STEP})
    return folder / f"{name}.mcap"


def write_messages(writer, play, media_ref):
    before = np.zeros(len(KEYS), bool)
    x = y = 500
    for step, (held, (dx, dy)) in enumerate(zip(play.held, play.mouse, strict=True)):
        time = START + step * STEP
        shot = screen.ScreenCaptured(utc_ns=time, shape=(192, 192), media_ref=media_ref(step))
        writer.write_message(shot, topic="screen", timestamp=time + 7_000_000)  # it is stored when it is encoded
        flags = 0
        for number in np.flatnonzero(held != before):
            if KEYS[number] in DOWN_BITS:
                flags |= DOWN_BITS[KEYS[number]] * (1 if held[number] else 2)
            else:
                kind = "press" if held[number] else "release"
                writer.write_message(key_event(KEYS[number], kind), topic="keyboard", timestamp=time)
        raw = mouse.RawMouseEvent(last_x=int(dx), last_y=int(dy), button_flags=flags)
        writer.write_message(raw, topic="mouse/raw", timestamp=time)
        x, y = x + int(dx), y + int(dy)
        moved = mouse.MouseEvent(event_type="move", x=x, y=y)
        writer.write_message(moved, topic="mouse", timestamp=time)  # the same movement again
        if step % RATE == 0:
            codes = {CODES[key] for key, down in zip(KEYS, held, strict=True) if down}
            writer.write_message(keyboard.KeyboardState(buttons=codes), topic="keyboard/state", timestamp=time)
            buttons = {key[6:] for key, down in zip(KEYS, held, strict=True) if down and key in DOWN_BITS}
            state = mouse.MouseState(x=x, y=y, buttons=buttons)
            writer.write_message(state, topic="mouse/state", timestamp=time)
            game = window.WindowInfo(title="The game", rect=(0, 0, 192, 192), hWnd=42)
            writer.write_message(game, topic="window", timestamp=time)
        before = held


def key_event(name, kind):
    return keyboard.KeyboardEvent(event_type=kind, vk=CODES[name])


def read_one(path):
    (play,) = BRIDGE.read(path, BridgeOptions()).values()
    return play


def held_and_moved(play, keys, axes, steps):
    """Keys held and sums of movements in each step, by simple loops."""
    held, moved = np.zeros((steps, len(keys)), bool), np.zeros((steps, len(axes)))
    for time, code, value in zip(play.events.time, play.events.code, play.events.value, strict=True):
        name, step = play.events.names[code], round(time * RATE)
        if name in keys:
            held[step:, keys.index(name)] = value > 0
        elif step < steps:
            moved[step, axes.index(name)] += value
    return held, moved


@pytest.fixture(scope="module")
def play(tmp_path_factory):
    return make_play(tmp_path_factory.mktemp("play"))


@pytest.fixture(scope="module")
def recording(play, tmp_path_factory):
    return write(tmp_path_factory.mktemp("owa"), "one", play)


def test_keys_mouse_and_frames_are_those_of_the_play(recording, play):
    found = read_one(recording)
    held, moved = held_and_moved(found, KEYS, ("mouse.x", "mouse.y"), len(play.held))
    np.testing.assert_array_equal(held, play.held)
    np.testing.assert_array_equal(moved, play.mouse)
    frames = list(found.frames())
    assert [time for time, _ in frames] == [step * STEP / 1e9 for step in range(60)]
    np.testing.assert_array_equal([frame for _, frame in frames], play.frames)
    assert (found.excluded, found.facts["game"], found.remarks) == ((), "The game", ())


def test_find_and_files(recording):
    (recording.parent / "notes.txt").touch()
    assert BRIDGE.find(recording.parent) == [recording]
    assert BRIDGE.files(recording) == [recording, recording.with_suffix(".mp4")]


def test_embedded_frames(play, tmp_path):
    frames = play.frames[:3]
    refs = [
        screen.ScreenCaptured(frame_arr=np.dstack([frame[..., ::-1], frame[..., :1] * 0 + 255])).embed_as_data_uri()
        for frame in frames
    ]
    with OWAMcapWriter(tmp_path / "embedded.mcap") as writer:
        for step, shot in enumerate(refs):
            writer.write_message(shot, topic="screen", timestamp=START + step * STEP)
    found = list(read_one(tmp_path / "embedded.mcap").frames())
    np.testing.assert_array_equal([frame for _, frame in found], frames)
    assert BRIDGE.files(tmp_path / "embedded.mcap") == [tmp_path / "embedded.mcap"]


def small(folder, messages, uri="small.mp4"):
    """A recording of three frames, with messages of (topic, milliseconds, message)."""
    path = folder / "small.mcap"
    with OWAMcapWriter(path) as writer:
        for step in range(3):
            shot = screen.ScreenCaptured(shape=(1000, 500), media_ref={"uri": uri, "pts_ns": step * STEP})
            writer.write_message(shot, topic="screen", timestamp=START + step * STEP)
        for topic, milliseconds, message in messages:
            writer.write_message(message, topic=topic, timestamp=START + milliseconds * 10**6)
    return path


def rows(path):
    """Events as (milliseconds, name, value)."""
    events = checked_events(read_one(path).events, path)
    return [
        (round(time * 1000), events.names[code], value)
        for time, code, value in zip(events.time, events.code, events.value, strict=True)
    ]


def test_keys_of_the_first_snapshot_are_held_from_the_start(tmp_path):
    state = keyboard.KeyboardState(buttons={0x57, 0xA0, 0x10, 1})  # W; left Shift, as itself and as any; a mouse button
    release = keyboard.KeyboardEvent(event_type="release", vk=0x57)
    path = small(tmp_path, [("keyboard/state", 500, state), ("keyboard", 700, release)])
    assert rows(path) == [(0, "left_shift", 1), (0, "w", 1), (700, "w", 0)]
    assert "2 presses and releases are missing" in read_one(path).remarks[0]


def test_snapshots_repair_what_was_lost_but_not_what_just_happened(tmp_path):
    press = [("keyboard", time, key_event(name, "press")) for name, time in (("a", 100), ("w", 990))]
    states = [("keyboard/state", time, keyboard.KeyboardState(buttons=codes)) for time, codes in
              ((0, set()), (1000, {0x41}), (2000, {0x57, 0x44}))]  # fmt: skip
    # At 1000 ms W, pressed just before, is missing; at 2000 ms A has been released, and D pressed.
    assert rows(small(tmp_path, press + states)) == [
        (100, "a", 1), (990, "w", 1), (2000, "a", 0), (2000, "d", 1),
    ]  # fmt: skip


def test_mouse_buttons_wheel_and_positions(tmp_path):
    raw = lambda **fields: mouse.RawMouseEvent(**({"last_x": 0, "last_y": 0} | fields))  # noqa: E731
    path = small(
        tmp_path,
        [
            ("mouse/raw", 200, raw(last_x=-3, button_flags=0x1 | 0x10)),
            ("mouse/raw", 210, raw(button_flags=0x2 | 0x400, button_data=2**16 - 120)),
            ("mouse/raw", 220, raw(button_flags=0x40)),
            ("mouse/raw", 230, raw(last_x=32768, last_y=32768, us_flags=1)),
            ("mouse/raw", 240, raw(last_x=32768 + 655, last_y=0, us_flags=1)),
        ],
    )
    assert sorted(rows(path)) == [
        (200, "mouse.left", 1), (200, "mouse.middle", 1), (200, "mouse.x", -3), (210, "mouse.left", 0),
        (210, "mouse.wheel", -120), (220, "mouse.x1", 1), (240, "mouse.x", 10), (240, "mouse.y", -250),
    ]  # fmt: skip


def test_the_cursor_counts_only_where_raw_events_are_missing(tmp_path):
    event = lambda **fields: mouse.MouseEvent(**({"x": 10, "y": 10} | fields))  # noqa: E731
    path = small(
        tmp_path,
        [
            ("mouse", 10, event(event_type="move")),
            ("mouse", 20, event(event_type="move", x=13, y=4)),
            ("mouse", 30, event(event_type="click", x=13, y=4, button="right", pressed=True)),
            ("mouse", 40, event(event_type="scroll", x=13, y=4, dx=0, dy=2)),
        ],
    )
    assert sorted(rows(path)) == [
        (20, "mouse.x", 3), (20, "mouse.y", -6), (30, "mouse.right", 1), (40, "mouse.wheel", 240),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("limit", "topic", "messages"),
    [
        ("MAX_SNAPSHOTS", "window", [window.WindowInfo(title="Game", rect=(0, 0, 9, 9), hWnd=1)] * 4),
        ("MAX_SNAPSHOTS", "keyboard/state", [keyboard.KeyboardState(buttons=set())] * 4),
        ("MAX_SNAPSHOTS", "mouse/state", [mouse.MouseState(x=1, y=1, buttons=set())] * 4),
        ("MAX_HELD", "keyboard/state", [keyboard.KeyboardState(buttons={0x41, 0x42})] * 2),
        ("MAX_PRESSES", "keyboard", [keyboard.KeyboardEvent(event_type="press", vk=0x41)] * 4),
        ("MAX_PRESSES", "mouse/raw", [mouse.RawMouseEvent(last_x=0, last_y=0, button_flags=3)] * 2),
    ],
)
def test_what_is_held_in_memory_is_bounded(tmp_path, monkeypatch, limit, topic, messages):
    path = small(tmp_path, [(topic, 10 * number, message) for number, message in enumerate(messages)])
    read_one(path)
    monkeypatch.setattr(owamcap_events, limit, 3)
    with pytest.raises(BrokenRecordingError, match=r"small\.mcap: absurd size: .* snapshots of"):
        read_one(path)


def test_long_titles_are_cut(tmp_path):
    title = window.WindowInfo(title="Game " * 1000, rect=(0, 0, 9, 9), hWnd=1)
    assert read_one(small(tmp_path, [("window", 0, title)])).facts["game"] == ("Game " * 40)


def test_other_windows_are_left_out_from_the_snapshot_before(tmp_path):
    at = lambda seconds, title, handle: (  # noqa: E731
        "window", 1000 * seconds, window.WindowInfo(title=title, rect=(0, 0, 9, 9), hWnd=handle)
    )  # fmt: skip
    changes = [
        at(0, "Game", 1),
        at(1, "Game", 1),
        at(2, "Mail", 2),
        at(3, "Mail", 2),
        at(4, "Game", 1),
        at(9, "Game", 5),
    ]
    found = read_one(small(tmp_path, changes))
    assert found.excluded == ((1.0, 4.0),)
    assert found.facts["game"] == "Game"
    assert "'Mail'" in found.remarks[0]


@pytest.mark.parametrize(
    "uri", ["../secret.mp4", "/etc/passwd", "http://host/a.mp4", "link.mp4", "absent.mp4", "a\0.mp4"]
)
def test_no_file_outside_the_folder_is_read(tmp_path, play, uri):
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(play.video, tmp_path / "secret.mp4")
    (folder / "link.mp4").symlink_to(tmp_path / "secret.mp4")
    with pytest.raises(BrokenRecordingError, match=r"missing video: it refers to") as error:
        list(read_one(small(folder, [], uri)).frames())
    assert error.value.reason == "missing video"
    assert BRIDGE.files(folder / "small.mcap") == [folder / "small.mcap"]


def test_a_frame_that_the_video_does_not_have_is_named(tmp_path, play):
    shutil.copy(play.video, tmp_path / "small.mp4")
    with OWAMcapWriter(tmp_path / "late.mcap") as writer:
        shot = screen.ScreenCaptured(media_ref={"uri": "small.mp4", "pts_ns": 4 * 10**9})
        writer.write_message(shot, topic="screen", timestamp=START)
    with pytest.raises(BrokenRecordingError, match=r"small.mp4 shows nothing at 4.000 s: the nearest is at 2.950 s"):
        list(read_one(tmp_path / "late.mcap").frames())


def test_broken_files(recording, tmp_path):
    data = recording.read_bytes()
    for name, content, reason in (
        ("cut", data[: len(data) // 2], "unreadable actions"),
        ("empty", b"", "unreadable actions"),
        ("other", b"PK" + bytes(1000), "unreadable actions"),
        ("flipped", data[:3000] + bytes([data[3000] ^ 1]) + data[3001:], "unreadable actions"),
    ):
        (tmp_path / f"{name}.mcap").write_bytes(content)
        with pytest.raises(BrokenRecordingError) as error:
            read_one(tmp_path / f"{name}.mcap")
        assert error.value.reason == reason, name


@pytest.mark.parametrize(
    ("topic", "message", "problem"),
    [
        ("keyboard", {"event_type": "press"}, r"missing field.*`vk`"),
        ("keyboard", {"event_type": "press", "vk": 5000}, r"bad value.*`vk` is '5000'"),
        ("keyboard", {"event_type": "hold", "vk": 5}, r"bad value.*`event_type`"),
        ("keyboard/state", {"buttons": "w"}, r"bad value.*`buttons`"),
        ("mouse/raw", {"last_x": 1.5, "last_y": 0}, r"bad value.*`last_x`"),
        ("keyboard", [1], r"bad json"),
        ("keyboard", {"event_type": "x" * 70_000}, r"absurd size"),
    ],
)
def test_impossible_messages_are_named(tmp_path, topic, message, problem):
    from mcap.writer import Writer

    with (tmp_path / "bad.mcap").open("wb") as stream:
        writer = Writer(stream)
        writer.start()
        channel = writer.register_channel(topic, "json", 0)
        writer.add_message(channel, START, json.dumps(message).encode(), START)
        writer.finish()
    with pytest.raises(BrokenRecordingError, match=problem):
        read_one(tmp_path / "bad.mcap")


def test_a_decompression_bomb_is_not_decompressed(tmp_path, monkeypatch):
    from mcap.writer import CompressionType, Writer

    from vpt_jax.data.bridges import mcap_file

    monkeypatch.setattr(mcap_file, "MAX_RECORD", 2**16)
    for kind in (CompressionType.ZSTD, CompressionType.LZ4):
        with (tmp_path / "bomb.mcap").open("wb") as stream:
            writer = Writer(stream, compression=kind, chunk_size=2**21)
            writer.start()
            writer.add_message(writer.register_channel("screen", "json", 0), START, bytes(2**20), START)
            writer.finish()
        with pytest.raises(BrokenRecordingError, match="absurd size: a chunk holds 1,0"):
            read_one(tmp_path / "bomb.mcap")
        # A chunk that states fewer bytes than it holds.
        data = (tmp_path / "bomb.mcap").read_bytes()
        size = next(n for n in range(2**20, 2**20 + 200) if n.to_bytes(8, "little") in data)
        (tmp_path / "liar.mcap").write_bytes(data.replace(size.to_bytes(8, "little"), (1000).to_bytes(8, "little"), 1))
        with pytest.raises(BrokenRecordingError, match="a chunk states 1,000 bytes"):
            read_one(tmp_path / "liar.mcap")


def test_facts_beside_the_recording(play, tmp_path):
    path = write(tmp_path, "one", play)
    facts = {"player": "anna", "trainable": False, "mouse_factor": 0.5, "excluded": [[1.0, 2.0]]}
    (tmp_path / "one.json").write_text(json.dumps(facts))
    found = read_recording("owamcap", path)["one"]
    expected = {"session": "one", "game": "The game", "player": "anna", "trainable": False, "mouse_factor": 0.5}
    assert dict(found.facts) == expected
    assert found.excluded == ((1.0, 2.0),)
    assert BRIDGE.facts(path) == tmp_path / "one.json"
    (tmp_path / "one.json").write_text('{"start": 5.0}')
    with pytest.raises(BrokenRecordingError, match=r"one.json: bad value: `start` must be left out"):
        read_recording("owamcap", path)


def test_changed_bytes_are_an_error_or_another_recording(play, tmp_path):
    """Without compression and checksums, changes reach the fields of records and messages."""
    from mcap.writer import CompressionType

    shutil.copy(play.video, tmp_path / "one.mp4")
    path = tmp_path / "one.mcap"
    with OWAMcapWriter(str(path), compression=CompressionType.NONE, enable_crcs=False) as writer:
        short = CommonPlay(play.video, play.held[:8], play.mouse[:8])
        write_messages(writer, short, lambda step: {"uri": "one.mp4", "pts_ns": step * STEP})
    data, rng = path.read_bytes(), np.random.default_rng(0)
    reasons = set()
    for _ in range(60):
        changed = bytearray(data)
        changed[rng.integers(len(data))] = rng.integers(256)
        path.write_bytes(changed)
        try:
            next(read_one(path).frames())
        except BrokenRecordingError as error:
            reasons.add(error.reason)
    assert "bad json" in reasons
    assert len(reasons) > 1
    first = data.index(b'{"event_type":"move"')
    path.write_bytes(data[: first - 30] + b"\xff" * 8 + data[first - 22 :])  # the length of the message
    with pytest.raises(BrokenRecordingError, match="unreadable actions"):
        read_one(path)


def test_frames_of_uneven_times_are_found_by_their_own(tmp_path):
    """Matroska rounds times to milliseconds; frames are 10 to 40 ms apart, and one is left out of the messages."""
    milliseconds, levels = [0, 17, 33, 43, 83], [0, 60, 120, 180, 240]
    with av.open(str(tmp_path / "uneven.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        for time, level in zip(milliseconds, levels, strict=True):
            picture = av.VideoFrame.from_ndarray(np.full((16, 16, 3), level, np.uint8))
            picture.pts, picture.time_base = time, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    with OWAMcapWriter(tmp_path / "uneven.mcap") as writer:
        for pts_ns in (0, 16_666_667, 43_400_000, 82_600_000):
            shot = screen.ScreenCaptured(media_ref={"uri": "uneven.mkv", "pts_ns": pts_ns})
            writer.write_message(shot, topic="screen", timestamp=START + pts_ns)
    found = list(read_one(tmp_path / "uneven.mcap").frames())
    assert [time for time, _ in found] == [0, 0.016666667, 0.0434, 0.0826]
    assert np.abs([frame.mean() for _, frame in found] - np.array([0, 60, 180, 240])).max() < 5


def test_a_frame_that_is_not_later_is_left_out_and_counted(tmp_path, play):
    shutil.copy(play.video, tmp_path / "twice.mp4")
    with OWAMcapWriter(tmp_path / "twice.mcap") as writer:
        for time, pts_ns in ((0, 0), (50, STEP), (50, STEP), (40, STEP), (100, 2 * STEP)):
            shot = screen.ScreenCaptured(media_ref={"uri": "twice.mp4", "pts_ns": pts_ns})
            writer.write_message(shot, topic="screen", timestamp=START + time * 10**6)
    found = read_one(tmp_path / "twice.mcap")
    assert [time for time, _ in found.frames()] == [0, 0.05, 0.1]
    assert found.remarks == ("2 frames are not later than the one before, and left out",)
