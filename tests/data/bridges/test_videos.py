"""Files of a recording by name: any suffix, in any case, and each file once."""

import os

import pytest

from vpt_jax.data.bridges.videos import files_named, find_video

SUFFIXES = (".mp4", ".mkv")


@pytest.mark.parametrize("name", ["a.mp4", "a.MP4", "a.Mp4", "a.MKV"])
def test_a_suffix_may_be_in_any_case(tmp_path, name):
    for other in ("a", "a.b.mp4", "b.mp4", "a.txt", name):
        (tmp_path / other).touch()
    assert files_named(tmp_path, "a", SUFFIXES) == [tmp_path / name]
    assert find_video(tmp_path, "a") == tmp_path / name
    assert files_named(tmp_path, "a.b", SUFFIXES) == [tmp_path / "a.b.mp4"]
    assert files_named(tmp_path, "none", SUFFIXES) == []


def test_all_files_are_found_sorted_and_each_once(tmp_path):
    for name in ("a.mp4", "a.mkv"):
        (tmp_path / name).touch()
    os.link(tmp_path / "a.mp4", tmp_path / "a.MP4")  # as a file system without cases shows it
    assert files_named(tmp_path, "a", SUFFIXES) == [tmp_path / "a.mkv", tmp_path / "a.mp4"]
    assert find_video(tmp_path, "a") == tmp_path / "a.mkv"
    assert find_video(tmp_path, "b") is None
