"""Video files: which files are videos, listing them below a folder, and their identity by content.

This is the one place that decides what a video is. Files are chosen by suffix (`is_video`), opened only as one of
`CONTAINERS`, and told apart by `content_digest`. What resembles a video and is not taken is listed, not ignored.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from vpt_jax.system.contents import file_digest
from vpt_jax.system.printable import printable

# FFmpeg's names of the containers that are opened, each of which can hold a video with time stamps. Others are refused:
# some are text files that make FFmpeg open further files (playlists, lists to join), and the rest is rare.
CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "mxf", "dv", "rm", "nut",
              "ivf", "wtv")  # fmt: skip
# Suffixes, in lower case, by which their files are recognised; ".video" is a download whose name told none.
SUFFIXES = (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mj2", ".mkv", ".mk3d", ".webm",
            ".avi", ".divx", ".ts", ".m2t", ".m2ts", ".mts", ".mpg", ".mpeg", ".mpe", ".m2p", ".vob", ".flv", ".video",
            ".ogv", ".ogm", ".wmv", ".asf", ".mxf", ".dv", ".rm", ".rmvb", ".nut", ".ivf", ".wtv")  # fmt: skip
# Suffixes of files that are never looked into: they lie beside videos by the thousand, and are none.
_OTHERS = (".jsonl", ".json", ".txt", ".csv", ".log", ".xml", ".html", ".srt", ".vtt", ".ass", ".nfo", ".parquet",
           ".npz", ".npy", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".zip", ".tar", ".gz", ".heic", ".avif",
           ".mp3", ".m4a", ".m4b", ".wav", ".flac", ".aac", ".opus", ".oga")  # fmt: skip
_MOST_FILES = 2_000_000  # below one folder; a link to "/" leads to more
_HEAD = 400  # bytes that tell a container
UNREAD = ("missing", "unreadable")  # what `content_digest` says of a file that it cannot read


class VideoError(Exception):
    """A video that cannot be decoded to its end; `reason`: "unreadable video", "damaged video", "absurd size" ..."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass
class Listing:
    """The videos below a folder, and what resembles one and is passed over."""

    videos: list[Path] = field(default_factory=list)  # sorted by their path in the folder
    passed_over: dict[Path, str] = field(default_factory=dict)  # the reason for each
    folders: set[Path] = field(default_factory=set)  # real paths of all folders searched, through links too

    def describe(self) -> str:
        """One line for the user, or "" if nothing is passed over."""
        if not self.passed_over:
            return ""
        path, reason = next(iter(self.passed_over.items()))
        count = len(self.passed_over)
        return f"passed over: {count:,} {'file' if count == 1 else 'files'}, e.g. {printable_path(path)}: {reason}"


def is_video(path: str | Path) -> bool:
    """True if the suffix, in upper or lower case, is one of `SUFFIXES`."""
    return Path(path).suffix.lower() in SUFFIXES


def list_videos(folder: Path) -> Listing:
    """All videos of a folder and its subfolders; links to files and folders are followed.

    Each real folder is searched once, so links that lead back, or to the same place twice, end; a folder's own path
    counts before the links to it. A repeated folder, one that cannot be read, a link that leads nowhere, and a file
    that begins like a video and has another suffix are passed over with a reason.

    Raises:
      ValueError: there are more than two million files below the folder.
    """
    found = Listing()

    def pass_over(error: OSError) -> None:
        found.passed_over[Path(error.filename)] = f"this folder cannot be read: {error.strerror}"

    count, linked = 0, [folder]
    while linked:
        top = linked.pop(0)
        if (real := Path(os.path.realpath(top))) in found.folders:
            found.passed_over[top] = f"a link to {printable_path(real)}, which is searched already"
            continue
        # Links to folders are in `folders`, and not entered.
        for parent, folders, files in os.walk(top, onerror=pass_over):
            if (real := Path(os.path.realpath(parent))) in found.folders:
                folders.clear()  # seen before through a link from elsewhere
                continue
            found.folders.add(real)
            folders.sort()
            linked += [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]
            for name in sorted(files):
                _add_file(found, Path(parent, name))
            if (count := count + len(files)) > _MOST_FILES:
                raise ValueError(f"there are more than {_MOST_FILES:,} files in {folder} and what it links to")
    found.videos.sort()
    return found


def _add_file(found: Listing, path: Path) -> None:
    if is_video(path):
        if path.is_file():
            found.videos.append(path)
        else:
            found.passed_over[path] = "a link that leads nowhere" if path.is_symlink() else "it is no file"
    elif path.suffix.lower() not in _OTHERS and looks_like_video(path):
        suffix = path.suffix or "none"
        found.passed_over[path] = f"it begins like a video, and its suffix is {suffix}: rename it to label it"


def looks_like_video(path: Path) -> bool:
    """True if the first bytes of a file are those of a container that holds videos."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False  # a pipe would be waited for
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    starts = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\0\0\1\xba", b"0&\xb2u\x8ef\xcf\x11", b".RMF", b"DKIF")
    packets = any(len(head) > at + size and head[at] == head[at + size] == 0x47 for at, size in ((0, 188), (4, 192)))
    boxes = head[4:8] == b"ftyp" and head[8:12] not in (b"M4A ", b"M4B ", b"heic", b"mif1", b"avif")
    return head.startswith(starts) or packets or boxes or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def content_digest(path: Path, whole: bool = False) -> str:
    """The identity of a file by its content: equal for a copy, a renamed or touched file, whatever its dates.

    By `contents.file_digest`, which reads pieces of large files unless it is to read the `whole`, so a folder of
    terabytes is told in seconds.

    Returns 32 hexadecimal digits, or one of `UNREAD`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "unreadable"  # a pipe would be waited for
        return file_digest(path, whole)
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"


def utf8_path(path: str | Path) -> str:
    r"""A path as text that any file takes: the same, but for bytes that are not UTF-8, which become `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable_path(path: str | Path) -> str:
    r"""A path as text for a terminal: bytes that are not UTF-8, and control characters, become `\xNN`."""
    return printable(utf8_path(path))


def name_problem(path: str | Path) -> str:
    """Why no dataset can hold the name of a file, or ""."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return "its name is not UTF-8: rename it"
    return ""
