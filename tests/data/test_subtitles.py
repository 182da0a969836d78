"""Subtitles of videos: both formats, frames of a segment, automatic captions, and hostile files."""

import time

import pytest

from vpt_jax.data.captions import MAX_TEXT
from vpt_jax.data.subtitles import find_subtitles, read_cues, subtitle_captions

VTT = """\ufeffWEBVTT
Kind: captions

NOTE nothing here --> nor here

intro
00:01.000 --> 00:02.500 align:start position:0%
<c.yellow>Open</c> the
&amp; <00:00:01.500>door

01:00:00.000 --> 01:00:01.000
fight
"""
SRT = (
    "1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Open</i> the\r\n& door\r\n\r\n2\r\n01:00:00,000 --> 01:00:01,000\r\nfight"
)
ROLLING = """WEBVTT

00:00.000 --> 00:01.000
we go

00:01.000 --> 00:02.000
we go
to the <c>door</c>

00:02.000 --> 00:03.000
to the door
"""


@pytest.mark.parametrize(("name", "text"), [("a.vtt", VTT), ("a.srt", SRT), ("a.mp4.srt", SRT)])
def test_both_formats_give_captions_by_frame(tmp_path, name, text):
    (tmp_path / name).write_text(text, newline="")
    file = find_subtitles(tmp_path / "a.mp4")
    assert subtitle_captions(file) == [(20, "Open the & door"), (50, ""), (72_000, "fight"), (72_020, "")]
    assert subtitle_captions(file, 30, 60) == [(0, "Open the & door"), (20, "")]
    assert subtitle_captions(file, 50, 60) == []
    assert find_subtitles(tmp_path / "b.mp4") is None


def test_repeated_lines_of_automatic_captions_are_left_out(tmp_path):
    (tmp_path / "a.vtt").write_text(ROLLING)
    assert subtitle_captions(tmp_path / "a.vtt") == [(0, "we go"), (20, "to the door"), (60, "")]
    after_pause = ROLLING + "\n00:05.000 --> 00:06.000\n \nopen it\n\n00:06.000 --> 00:06.010\nopen it\n \n"
    (tmp_path / "a.vtt").write_text(after_pause)
    assert subtitle_captions(tmp_path / "a.vtt")[2:] == [(60, ""), (100, "open it"), (120, "")]


def test_overlapping_cues_give_way_to_the_later_one(tmp_path):
    (tmp_path / "a.vtt").write_text("00:00.000 --> 00:09.000\none\n\n00:01.000 --> 00:02.000\ntwo\n")
    assert subtitle_captions(tmp_path / "a.vtt") == [(0, "one"), (20, "two"), (40, "")]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00" * 50,
        b"00:00.000 --> 00:00.000\nempty\n",
        b"00:09.000 --> 00:01.000\nbackwards\n",
        b"99999999:00:00.000 --> 99999999:00:01.000\nfar\n",
        b"00:01.000 --> \n--> 00:02.000\n",
        b"<" * 100_000 + b"\n00:01.000 --> 00:02.000\n" + b"<" * 100_000,
        b"00:01.000 --> 00:02.000\n" + b"{\\" * 100_000,
    ],
)
def test_hostile_files_are_read_in_short_time(tmp_path, content):
    (tmp_path / "a.vtt").write_bytes(content)
    begun = time.process_time()
    cues = read_cues(tmp_path / "a.vtt")
    assert time.process_time() - begun < 0.5
    assert all(len(cue.text) <= MAX_TEXT and cue.text.isprintable() and cue.start < cue.end for cue in cues)


def test_files_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    (tmp_path / "a.vtt").write_text(VTT)
    monkeypatch.setattr("vpt_jax.data.subtitles.MAX_CUES", 1)
    assert len(read_cues(tmp_path / "a.vtt")) == 1
    monkeypatch.setattr("vpt_jax.data.subtitles.MAX_BYTES", 10)
    assert read_cues(tmp_path / "a.vtt") == []
    assert read_cues(tmp_path) == []
