"""Files of growing recordings: publication, kills in the middle, torn lines; what `prepare` reads afterwards."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

from vpt_jax.curation.window_recorder.files import GrowingRecording, recover
from vpt_jax.curation.window_recorder.gate import Row
from vpt_jax.data.bridges.event_table import BRIDGE
from vpt_jax.data.bridges.given_facts import read_recording
from vpt_jax.video import decode_timed

FACTS = {"player": "p1", "licence": "CC0-1.0", "consent": "p1: yes", "trainable": False}
TIMES = (100.0, 100.05, 100.09, 101.5, 101.55)  # a pause in the middle


def grow(folder, times=TIMES):
    recording = GrowingRecording(folder, "a", FACTS, times[0], 32, 48)
    for number, time in enumerate(times):
        recording.add_frame(time, np.full((32, 48, 3), 40 * number, np.uint8))
    recording.add_rows([Row(99.9, "resume"), Row(100.06, "press", "w"), Row(100.2, "move", "mouse.x", -3.0)])
    recording.add_rows([Row(101.0, "release", "w"), Row(105.0, "press", "a")])
    return recording


def read(folder):
    (path,) = BRIDGE.find(folder)
    (play,) = read_recording("event_table", path).values()
    return play


def check(folder, frames):
    assert sorted(path.name for path in folder.iterdir()) == ["a.csv", "a.json", "a.mp4"]
    play = read(folder)
    found = [(round(float(time), 6), int(frame.mean().round())) for time, frame in play.frames()]
    assert [time for time, _ in found] == [0, 0.05, 0.09, 1.5, 1.55][:frames]
    assert np.allclose([level for _, level in found], [0, 40, 80, 120, 160][:frames], atol=3)
    events = play.events
    listed = [(time, events.names[code], value) for time, code, value in zip(*events[2:], strict=True)]
    assert listed == [(0.06, "w", 1), (0.2, "mouse.x", -3), (1.0, "w", 0)]  # nothing after the last frame
    assert play.facts == FACTS


def test_a_recording_is_published_with_its_own_times(tmp_path):
    recording = grow(tmp_path)
    assert recover(tmp_path / "elsewhere") == []
    assert recording.finish() == tmp_path / "a"
    check(tmp_path, 5)


def test_a_frame_of_the_same_millisecond_is_dropped(tmp_path):
    recording = grow(tmp_path, (*TIMES, TIMES[-1] + 0.0004))
    recording.finish()
    check(tmp_path, 5)


def test_a_recording_shorter_than_a_second_is_removed(tmp_path):
    assert grow(tmp_path, TIMES[:3]).finish() is None
    assert list(tmp_path.iterdir()) == []


def killed_recorder(folder):
    grow(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def test_after_a_kill_the_next_recorder_publishes_what_is_there(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=killed_recorder, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial"]
    assert recover(tmp_path) == [tmp_path / "a"]
    check(tmp_path, 4)  # all but the last


@pytest.mark.parametrize("cut", [1, 40])
def test_a_video_and_a_line_that_are_cut_short_lose_their_ends_only(tmp_path, cut):
    recording = grow(tmp_path)
    recording._video.close()
    with (recording.folder / "events.csv").open("a") as file:
        file.write("1.1,press,d,\n1.5")  # a killed recorder's last line
    video = recording.folder / "video.mkv"
    cues = video.read_bytes().rindex(b"\x1c\x53\xbb\x6b")  # the index of Matroska, after the frames
    os.truncate(video, cues - cut)
    assert recover(tmp_path) == [tmp_path / "a"]
    assert "1.1,press,d,\n" in (tmp_path / "a.csv").read_text()
    assert "1.5" not in (tmp_path / "a.csv").read_text()
    assert len(list(decode_timed(tmp_path / "a.mp4"))) == 4


def test_a_kill_during_publication_is_made_good(tmp_path):
    recording = grow(tmp_path)
    recording._video.close()
    (tmp_path / "a.csv").write_text("half")
    (recording.folder / "film.mp4").write_bytes(b"half")
    recover(tmp_path)
    check(tmp_path, 5)


def test_a_folder_without_facts_or_frames_is_removed(tmp_path):
    (tmp_path / "b.partial").mkdir()
    (tmp_path / "c.partial").mkdir()
    (tmp_path / "c.partial" / "facts.json").write_text(json.dumps(FACTS))
    assert recover(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
