"""Video files: accepted suffixes, skipped files with their reasons, links, and content digests."""

import os
import shutil

import pytest

from tests.film_maker import number_of, numbered, write_film
from vpt_jax import video_files
from vpt_jax.curation.download import ytdlp
from vpt_jax.data.clips import find_videos
from vpt_jax.system.printable import printable
from vpt_jax.video import VideoError, decode, probe, resampled_frames
from vpt_jax.video_files import (
    SUFFIXES,
    content_digest,
    has_video_signature,
    is_video,
    list_videos,
    name_problem,
    printable_path,
)

LATIN = os.fsdecode(b"lat\xefin")

# Suffix, FFmpeg's name of the container, codec: for each accepted container, and for other common suffixes.
KINDS = [
    ("mp4", "mp4", "libx264"), ("m4v", "mp4", "mpeg4"), ("mov", "mov", "libx264"), ("qt", "mov", "mpeg4"),
    ("3gp", "3gp", "libx264"), ("3g2", "3g2", "mpeg4"), ("f4v", "f4v", "libx264"), ("mj2", "mov", "mpeg4"),
    ("mkv", "matroska", "libx264"), ("mk3d", "matroska", "mpeg4"), ("webm", "webm", "libvpx"),
    ("avi", "avi", "mpeg4"), ("divx", "avi", "libx264"), ("ts", "mpegts", "libx264"), ("m2t", "mpegts", "mpeg2video"),
    ("m2ts", "mpegts", "libx264"), ("mts", "mpegts", "libx264"), ("mpg", "mpeg", "mpeg1video"),
    ("mpeg", "vob", "mpeg2video"), ("vob", "dvd", "mpeg2video"), ("flv", "flv", "libx264"), ("ogv", "ogg", "libvpx"),
    ("wmv", "asf", "wmv2"), ("asf", "asf", "libx264"), ("mxf", "mxf", "mpeg2video"), ("nut", "nut", "mpeg4"),
    ("wtv", "wtv", "mpeg2video"), ("video", "matroska", "libx264"),
]  # fmt: skip


@pytest.mark.parametrize(("suffix", "container", "codec"), KINDS)
def test_every_kind_is_listed_and_read_completely(tmp_path, suffix, container, codec):
    """Suffixes may be in upper case; decode, probe and resampled_frames agree."""
    path = tmp_path / f"film.{suffix.upper() if len(suffix) % 2 else suffix}"
    write_film(path, numbered(40), codec, format=container)
    assert is_video(path)
    assert find_videos(tmp_path)["film"].video == path
    assert [number_of(frame) for frame in decode(path)] == pytest.approx(list(range(40)), abs=1)  # codecs lose some
    seconds = 40 / (25 if codec.startswith("mpeg") and codec[4] != "4" else 20)
    assert sum(1 for _ in resampled_frames(path)) == pytest.approx(20 * seconds, abs=1)
    info = probe(path)
    assert info[:2] == (64, 36)
    assert info.seconds == pytest.approx(seconds, abs=0.06)
    assert has_video_signature(path) or suffix in ("mxf", "nut", "wtv")


def test_all_programs_use_the_same_suffixes():
    """`label` finds all that `collect` downloads."""
    assert not hasattr(ytdlp, "SUFFIXES")
    assert is_video("X.video")
    assert all(suffix == suffix.lower() for suffix in SUFFIXES)
    assert not any(is_video(f"a.{suffix}") for suffix in ("txt", "jsonl", "mp3", "part", "mp4.part", ""))


def test_files_that_resemble_a_video_and_are_skipped_are_listed(tmp_path, capsys):
    """Unfinished downloads, videos without a suffix, and broken links are not skipped silently."""
    film = write_film(tmp_path / "film.mp4", numbered(2))
    for name in ("download.mp4.part", "film", "clip.dat", "music.ogg"):
        shutil.copy(film, tmp_path / name)
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "data.bin").write_bytes(bytes(range(256)) * 4)
    os.symlink("nowhere.mp4", tmp_path / "link.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe.dat")
    listing = list_videos(tmp_path)
    assert listing.videos == [film]
    assert {path.name for path in listing.skipped} == {"download.mp4.part", "film", "clip.dat", "music.ogg",
                                                        "link.mp4", "pipe.mp4"}  # fmt: skip
    assert list(find_videos(tmp_path)) == ["film"]
    output = capsys.readouterr().out
    assert output.startswith(f"skipped: 6 files, e.g. {tmp_path}/")
    (tmp_path / "only").mkdir()
    shutil.copy(film, tmp_path / "only" / "a.mp4")
    find_videos(tmp_path / "only")
    assert capsys.readouterr().out == ""


def test_links_are_followed_once(tmp_path):
    """Links may lead to folders and files, back to their own folder, and to each other."""
    videos, disk = tmp_path / "videos", tmp_path / "disk2"
    for path in (
        videos / "a.mp4",
        videos / "own" / "b.mp4",
        disk / "c.mp4",
        disk / "deep" / "d.mp4",
        tmp_path / "e.mp4",
    ):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.touch()
    os.symlink("../disk2", videos / "more")
    os.symlink(videos, disk / "back")
    os.symlink(".", videos / "self")
    os.symlink("own", videos / "again")
    os.symlink(tmp_path / "e.mp4", videos / "e.mp4")
    for i in range(20):  # each of these leads to all the others
        os.symlink("..", disk / "deep" / f"up{i}")
    assert list(find_videos(videos)) == ["a", "e", "more/c", "more/deep/d", "own/b"]
    assert any("searched already" in reason for reason in list_videos(videos).skipped.values())
    with pytest.raises(ValueError, match=r"disk2/out is inside .*disk2, which .*videos links to"):
        find_videos(videos, outside=disk / "out")
    find_videos(videos, outside=tmp_path / "out")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    """The videos of such a folder, as of another user, are not skipped silently."""
    for name in ("a.mp4", "theirs/b.mp4", "z/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    scan = os.scandir

    def refuse(path):
        if os.path.basename(path) == "theirs":
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_videos(tmp_path)
    assert [path.name for path in listing.videos] == ["a.mp4", "c.mp4"]
    assert listing.skipped == {tmp_path / "theirs": "this folder cannot be read: Permission denied"}
    assert listing.describe().startswith("skipped: 1 file")


def test_the_number_of_listed_files_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(video_files, "_MAX_FILES", 5)
    for i in range(9):
        (tmp_path / f"{i}.txt").touch()
    with pytest.raises(ValueError, match="more than 5 files"):
        find_videos(tmp_path)


def test_names_that_are_not_utf8_are_reported_when_videos_are_listed(tmp_path, capsys):
    """The name is escaped in all output (attack M3)."""
    write_film(tmp_path / "film.mp4", numbered(2)).rename(tmp_path / f"{LATIN}.mp4")
    found = find_videos(tmp_path)
    assert list(found) == ["lat\\xefin"]
    assert f"broken: {tmp_path}/lat\\xefin.mp4: its name is not UTF-8: rename it" in capsys.readouterr().out
    str(found["lat\\xefin"]).encode()
    for read in (lambda path: next(decode(path)), probe):
        with pytest.raises(VideoError, match="unreadable name: its name is not UTF-8"):
            read(tmp_path / f"{LATIN}.mp4")
    assert name_problem("été 😀.mp4") == ""
    assert printable_path(f"{LATIN}\n\x1b[1m é") == "lat\\xefin\\n\\x1b[1m é"
    assert printable_path("a\u202eb.mp4") == printable("a\u202eb.mp4") == "a\\u202eb.mp4"


@pytest.mark.parametrize("size", [0, 1, 1000, 2**16, 2**16 + 1, 4 * 2**20 + 1])
def test_a_digest_depends_only_on_the_content(tmp_path, size):
    """A video that is replaced by one of the same size and time has another digest."""
    one, two = tmp_path / "one.mp4", tmp_path / "two.mp4"
    data = bytearray(os.urandom(size))
    one.write_bytes(data)
    shutil.copy(one, two)
    os.utime(two, (5, 5))
    assert content_digest(one) == content_digest(two)
    for place in {0, size // 2, size - 1} if 0 < size <= 4 * 2**20 else {0, size - 1} if size else ():
        changed = bytearray(data)
        changed[place] ^= 1
        two.write_bytes(changed)
        assert content_digest(one) != content_digest(two)
    two.write_bytes(data + b"\0")
    assert content_digest(one) != content_digest(two)


def test_a_digest_of_a_large_file_reads_at_most_a_mebibyte(tmp_path, monkeypatch):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**33)  # sparse
    read, original = [], os.pread
    monkeypatch.setattr(os, "pread", lambda *args: read.append(args[1]) or original(*args))
    content_digest(tmp_path / "large")
    assert sum(read) <= 2**20
    assert content_digest(tmp_path / "none") == "missing"
    assert content_digest(tmp_path) == "unreadable"
