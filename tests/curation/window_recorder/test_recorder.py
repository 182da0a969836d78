"""The recorder on a real X server: a window that answers keys, real key and mouse events, other windows, and stops."""

import os
import shutil
import signal
import threading
import time
from contextlib import closing

import numpy as np
import pytest

pytest.importorskip("Xlib", reason="pip install -e '.[window]'")
if not shutil.which("Xvfb"):
    pytest.skip("apt-get install xvfb", allow_module_level=True)

from ml_collections import ConfigDict
from Xlib import X
from Xlib.display import Display

from configs import record_window
from tests.programs import Program
from vpt_jax.curation.window_recorder import WindowRecordError, files
from vpt_jax.curation.window_recorder.recorder import Session, read_config, record, scaled
from vpt_jax.curation.window_recorder.window import RecordedWindow, find_window
from vpt_jax.data.bridges.event_table import BRIDGE
from vpt_jax.data.bridges.given_facts import read_recording
from vpt_jax.envs.luanti.screen import Screen

HEIGHT, WIDTH = 60, 80
RED, GREEN, BLUE = 0xFF0000, 0x00FF00, 0x0000FF


class Game:
    """A program with two windows: the game turns green while W is held; the other is blue and covers a part of it."""

    def __init__(self, screen):
        self._display = Display(screen.name)
        self.window, self.other = self._open("Test game", 0, RED), self._open("Chat", 40, BLUE)
        self._running = True
        self._thread = threading.Thread(target=self._answer_keys, daemon=True)
        self._thread.start()

    def _open(self, title, x, colour):
        screen = self._display.screen()
        mask = X.KeyPressMask | X.KeyReleaseMask | X.ExposureMask
        window = screen.root.create_window(x, 0, WIDTH, HEIGHT, 0, screen.root_depth, background_pixel=colour)
        window.change_attributes(event_mask=mask, override_redirect=True)
        window.set_wm_name(title)
        window.map()
        self._display.sync()
        return window

    def _answer_keys(self):
        while self._running:
            for _ in range(self._display.pending_events()):
                event = self._display.next_event()
                if event.type in (X.KeyPress, X.KeyRelease) and event.detail == 25:  # W
                    self.window.change_attributes(background_pixel=GREEN if event.type == X.KeyPress else RED)
                    self.window.clear_area()
            self._display.flush()
            time.sleep(0.002)

    def flush(self):
        self._display.flush()

    def close(self):
        self._running = False
        self._thread.join()
        self._display.close()


class Grabber:
    """A program that takes the keyboard or the pointer for itself."""

    def __init__(self, screen):
        self._display = Display(screen.name)
        self._root = self._display.screen().root

    def take_keyboard(self):
        status = self._root.grab_keyboard(False, X.GrabModeAsync, X.GrabModeAsync, X.CurrentTime)
        assert status == X.GrabSuccess

    def take_pointer(self):
        status = self._root.grab_pointer(False, 0, X.GrabModeAsync, X.GrabModeAsync, 0, 0, X.CurrentTime)
        assert status == X.GrabSuccess

    def centre_pointer(self):
        self._root.warp_pointer(30, 30)
        self._display.sync()

    def close(self):
        self._display.close()


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return found


class Person:
    """Sends real input to a screen, from a connection of its own."""

    session = None  # of the recorder that runs

    def __init__(self, screen):
        self.screen, self._display = screen, Display(screen.name)

    def focus(self, window, paused=False):
        """Give a window the focus, and wait until the recorder knows."""
        self._display.set_input_focus(window.id, X.RevertToParent, X.CurrentTime)
        self._display.sync()
        if self.session is not None:
            wait_for(lambda: self.paused() if paused else not self.paused() and self.session._recording)

    def paused(self):
        return self.session._gate.paused

    def wait_for_frames(self, seconds=0.0):
        """Wait until a frame is recorded that is later than now, and the recording has this length."""
        now = time.monotonic()
        recording = self.session._recording
        wait_for(lambda: recording.last > now and recording.last - recording.start > seconds)

    def press(self, *keys):
        for key in keys:
            self.screen.press(key, True)
        time.sleep(0.1)
        for key in keys:
            self.screen.press(key, False)
        time.sleep(0.03)

    def move(self, x, y):
        self.screen.move(x, y)
        time.sleep(0.02)

    def close(self):
        self._display.close()


@pytest.fixture(scope="module")
def screen():
    screen = Screen(100, 160, "vpt-test-recorder")
    yield screen
    screen.disconnect()
    screen.server.kill()
    screen.server.wait()


@pytest.fixture
def game(screen):
    with closing(Game(screen)) as game:
        yield game


@pytest.fixture
def person(screen, game):
    with closing(Person(screen)) as person:
        person.focus(game.other)
        yield person


def make_config(screen, out, **fields):
    config = record_window.get_config()
    config.display, config.window, config.out = screen.name, "test game", str(out)
    config.player, config.consent, config.licence = "p1", "I agree.", "CC0-1.0"
    config.update(fields)
    return config


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Keeps short recordings, so that tests may be short."""
    monkeypatch.setattr(files, "MIN_SECONDS", 0.2)


@pytest.fixture
def run(screen, person, tmp_path):
    """Function that records what a function does; returns the plays and what the recorder returned."""

    def run(play, **fields):
        settings, gate, facts = read_config(make_config(screen, tmp_path, **fields))
        window = RecordedWindow(screen.name, find_window(screen.name, "test game"))
        stop, published = threading.Event(), []
        person.session = session = Session(window, gate, facts, settings)
        thread = threading.Thread(target=lambda: published.extend(session.run(stop.is_set)))
        thread.start()
        try:
            play()
            person.wait_for_frames(0.25)
        finally:
            stop.set()
            thread.join()
            window.close()
        assert BRIDGE.find(tmp_path) == published
        return [read_recording("event_table", path)[path.name] for path in published]

    return run


def listed(play):
    events = play.events
    return [(events.names[code], value) for code, value in zip(events.code, events.value, strict=True)]


def test_a_play_is_recorded_with_its_times_and_nothing_of_another_window(screen, game, person, run):
    def play():
        person.press("a")  # before the game has the focus
        person.focus(game.window)
        person.press("w", "Button1")
        person.move(7, -3)
        person.press("Button4")  # a notch of the wheel
        person.focus(game.other, paused=True)
        person.press("s", "w")  # typed elsewhere
        person.move(50, 50)
        person.focus(game.window)
        person.press("d", "p")

    (found,) = run(play)
    assert listed(found) == [
        ("w", 1), ("mouse.left", 1), ("w", 0), ("mouse.left", 0), ("mouse.x", 7), ("mouse.y", -3), ("mouse.wheel", 1),
        ("d", 1), ("d", 0),
    ]  # fmt: skip
    ((paused, resumed),) = found.excluded
    times = found.events.time
    assert times[6] < paused < resumed < times[7]
    assert found.facts["consent"].endswith("UTC: I agree.")
    assert {name: found.facts[name] for name in ("player", "licence", "trainable")} == {
        "player": "p1", "licence": "CC0-1.0", "trainable": True,
    }  # fmt: skip
    check_frames(found, times[0], times[2], paused, resumed)


def check_frames(found, pressed, released, paused, resumed):
    """The window turns green after the press, never before it, and is seen whole, though another window covers it."""
    frames = [(time, frame.astype(int)) for time, frame in found.frames()]
    assert frames[0][1].shape == (HEIGHT, WIDTH, 3)
    green = [time for time, frame in frames if frame[:, :, 1].mean() > 128]
    assert -0.002 < green[0] - pressed < 0.5
    assert pressed < green[-1] < released + 0.5
    assert not any(frame[:, :, 2].mean() > 60 for _, frame in frames)
    assert not any(paused + 0.1 < time < resumed for time, _ in frames)
    steps = np.diff([time for time, _ in frames if time < paused])
    assert 0.03 < np.median(steps) < 0.5


def test_a_text_field_of_the_game_and_the_pause_key_pause(game, person, run):
    def play():
        person.focus(game.window)
        for key in ("1", "t", "w", "Return", "2", "Pause", "w", "Pause", "3"):
            person.press(key)

    (found,) = run(play)
    assert [name for name, value in listed(found) if value] == ["1", "2", "3"]
    assert len(found.excluded) == 2


def test_the_mouse_is_recorded_also_where_the_game_holds_the_pointer_and_puts_it_back(screen, game, person, run):
    with closing(Grabber(screen)) as grabber:

        def play():
            person.focus(game.window)
            grabber.take_pointer()
            for _ in range(3):
                person.move(20, 1)
                grabber.centre_pointer()

        (found,) = run(play)
    assert listed(found) == [("mouse.x", 20), ("mouse.y", 1)] * 3
    assert found.excluded == ()


def test_a_program_that_takes_the_keyboard_is_not_recorded(screen, game, person, run):
    def play():
        person.focus(game.window)
        person.press("w")
        with closing(Grabber(screen)) as grabber:
            grabber.take_keyboard()  # as those that ask for a password do
            wait_for(lambda: person.paused())
            person.press("a", "s", "d")
        wait_for(lambda: not person.paused())
        person.press("e")

    (found,) = run(play)
    assert [name for name, value in listed(found) if value] == ["w", "e"]
    assert len(found.excluded) == 1


def test_another_size_begins_another_recording_of_the_session(screen, game, person, run):
    def play():
        person.focus(game.window)
        screen.press("w", True)
        person.wait_for_frames(0.3)
        first = person.session._recording
        game.window.configure(width=WIDTH - 20)
        game.flush()
        wait_for(lambda: person.session._recording not in (first, None))
        screen.press("w", False)

    before, after = run(play, height=0)
    assert before.facts["session"] == after.facts["session"]
    assert next(after.frames())[1].shape == (HEIGHT, WIDTH - 20, 3)
    assert listed(before) == [("w", 1)]
    assert listed(after)[0] == ("w", 1)  # still held
    assert after.events.time[0] == 0


def test_the_recorder_ends_with_its_window_or_time(screen, game, person, tmp_path, capsys):
    person.focus(game.window)
    (path,) = record(make_config(screen, tmp_path, seconds=0.5))
    assert path.with_name(path.name + ".mp4").exists()

    def close_window():
        wait_for(lambda: list(tmp_path.glob("*.partial")))
        game.window.destroy()
        game.flush()

    thread = threading.Thread(target=close_window)
    thread.start()
    record(make_config(screen, tmp_path))
    thread.join()
    assert "records\n" in capsys.readouterr().out
    with pytest.raises(WindowRecordError, match="0 windows have 'test game'"):
        record(make_config(screen, tmp_path))


@pytest.mark.slow
def test_the_program_recovers_what_a_killed_one_left_and_ends_with_ctrl_c(screen, game, person, tmp_path):
    config = make_config(screen, tmp_path)
    given = ("display", "window", "out", "player", "consent", "licence")
    flags = [f"--config.{field}={config[field]}" for field in given] + ["--config.max_seconds=10"]
    person.focus(game.window)
    killed = Program("record_window", flags, os.environ)
    (video,) = wait_for(lambda: list(tmp_path.glob("*.partial/video.mkv")))
    screen.press("w", True)
    wait_for(lambda: video.stat().st_size > 3_000)
    killed.kill()
    killed.wait()
    screen.press("w", False)
    program = Program("record_window", flags, os.environ)
    wait_for(lambda: list(tmp_path.glob("*.partial/video.mkv")) not in ([], [video]))
    time.sleep(1.1)
    program.send_signal(signal.SIGINT)
    assert program.wait() == 0, program.output()
    recovered, ended = (read_recording("event_table", path)[path.name] for path in BRIDGE.find(tmp_path))
    assert "recovered from a recorder that was killed" in program.output()
    assert listed(recovered) == [("w", 1)]
    assert len(list(recovered.frames())) > 10
    assert len(list(ended.frames())) > 10
    assert ended.facts["player"] == "p1"


def test_the_program_lists_windows_and_names_what_is_missing(screen, game, tmp_path):
    flags = [f"--config.display={screen.name}"]
    program = Program("record_window", flags, os.environ)
    assert program.wait() == 1
    assert f"{game.window.id:#x}  Test game\n" in program.output()
    flags += ["--config.window=test game", f"--config.out={tmp_path}", "--config.player=p1"]
    program = Program("record_window", flags, os.environ)
    assert program.wait() == 1
    assert "error: config.consent is '': set it to the words of the person who plays" in program.output()


def test_windows_are_found_by_title_or_number(screen, game):
    assert find_window(screen.name, "GAME") == game.window.id == find_window(screen.name, hex(game.window.id))
    with pytest.raises(WindowRecordError, match=r"config\.window is empty.*\n.*Test game"):
        find_window(screen.name, "")
    with pytest.raises(WindowRecordError, match="2 windows have 't' in their title"):
        find_window(screen.name, "t")
    with pytest.raises(WindowRecordError, match="0x123456 does not exist"):
        RecordedWindow(screen.name, 0x123456)
    with pytest.raises(WindowRecordError, match="no X display ':4711'"):
        find_window(":4711", "")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("consent", "", r"config\.consent is '': set it to the words of the person"),
        ("licence", " ", r"config\.licence is ' '"),
        ("player", "", r"config\.player"),
        ("out", "", r"config\.out"),
        ("recorded_keys", ("w", "any"), "no key is called 'any'"),
        ("recorded_keys", ("w", "t"), "contains 't', which opens a text field"),
        ("frames_per_second", 0.0, "must be 1 to 240"),
        ("height", 4, r"config\.height is 4"),
    ],
)
def test_a_config_is_refused_before_anything_is_recorded(tmp_path, field, value, message):
    config = record_window.get_config()
    config.update(out=str(tmp_path), player="p", consent="yes", licence="CC0-1.0")
    with config.unlocked():
        config[field] = value
    with pytest.raises(WindowRecordError, match=message):
        read_config(ConfigDict(config))


def test_frames_are_reduced_to_a_height_with_even_sizes():
    frame = np.zeros((101, 203, 3), np.uint8)
    assert scaled(frame, 0).shape == scaled(frame, 300).shape == (100, 202, 3)
    assert scaled(frame, 50).shape == (50, 100, 3)
