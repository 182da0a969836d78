"""Video files: accepted suffixes and containers, recursive listing of a folder, and content digests.

This is the only module that decides which files are videos. Files are selected by suffix (`is_video`), opened only as
one of `CONTAINERS`, and identified by `content_digest`. Files that resemble a video and are skipped are listed with a
reason, not ignored.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from vpt_jax.system.contents import file_digest
from vpt_jax.system.errors import UserError
from vpt_jax.system.printable import printable

# FFmpeg's names of the accepted containers, all of which can hold a video with time stamps. Others are refused: some
# are text files that make FFmpeg open further files (playlists, concatenation lists), and the rest is rare.
CONTAINERS = ("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "ogg", "asf", "mxf", "dv", "rm", "nut",
              "ivf", "wtv")  # fmt: skip
# Suffixes of video files, in lower case; ".video" is a download whose name had no suffix.
SUFFIXES = (".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v", ".mj2", ".mkv", ".mk3d", ".webm",
            ".avi", ".divx", ".ts", ".m2t", ".m2ts", ".mts", ".mpg", ".mpeg", ".mpe", ".m2p", ".vob", ".flv", ".video",
            ".ogv", ".ogm", ".wmv", ".asf", ".mxf", ".dv", ".rm", ".rmvb", ".nut", ".ivf", ".wtv")  # fmt: skip
# Suffixes of files that are never opened to check for a video signature: thousands of them lie next to videos.
_NON_VIDEO_SUFFIXES = (".jsonl", ".json", ".txt", ".csv", ".log", ".xml", ".html", ".srt", ".vtt", ".ass", ".nfo",
           ".parquet", ".npz", ".npy", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".zip", ".tar", ".gz", ".heic",
           ".avif", ".mp3", ".m4a", ".m4b", ".wav", ".flac", ".aac", ".opus", ".oga")  # fmt: skip
_MAX_FILES = 2_000_000  # below one folder; a link to "/" leads to more
_HEAD_BYTES = 400  # bytes that identify a container
UNREAD = ("missing", "unreadable")  # results of `content_digest` for a file that cannot be read


class VideoError(UserError):
    """A video that cannot be decoded to its end; `reason`: "unreadable video", "damaged video", "absurd size" ..."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


@dataclass
class Listing:
    """The videos below a folder, and the files that resemble a video and are skipped."""

    videos: list[Path] = field(default_factory=list)  # sorted by their path in the folder
    skipped: dict[Path, str] = field(default_factory=dict)  # the reason for each
    folders: set[Path] = field(default_factory=set)  # real paths of all folders searched, through links too

    def describe(self) -> str:
        """One line for the user, or "" if nothing is skipped."""
        if not self.skipped:
            return ""
        path, reason = next(iter(self.skipped.items()))
        count = len(self.skipped)
        return f"skipped: {count:,} {'file' if count == 1 else 'files'}, e.g. {printable_path(path)}: {reason}"


def is_video(path: str | Path) -> bool:
    """True if the suffix, in upper or lower case, is one of `SUFFIXES`."""
    return Path(path).suffix.lower() in SUFFIXES


def list_videos(folder: Path) -> Listing:
    """List all videos of a folder and its subfolders; symbolic links to files and folders are followed.

    Each real folder is searched once, so cyclic and repeated links end; a folder's own path takes precedence over links
    to it. A repeated folder, an unreadable one, a broken link, and a file with a video signature but another suffix are
    skipped with a reason.

    Raises:
      ValueError: there are more than two million files below the folder.
    """
    found = Listing()

    def skip_folder(error: OSError) -> None:
        found.skipped[Path(error.filename)] = f"this folder cannot be read: {error.strerror}"

    count, linked = 0, [folder]
    while linked:
        top = linked.pop(0)
        if (real := Path(os.path.realpath(top))) in found.folders:
            found.skipped[top] = f"a link to {printable_path(real)}, which is searched already"
            continue
        # os.walk lists links to folders in `folders`, and does not enter them.
        for parent, folders, files in os.walk(top, onerror=skip_folder):
            if (real := Path(os.path.realpath(parent))) in found.folders:
                folders.clear()  # already searched through a link from elsewhere
                continue
            found.folders.add(real)
            folders.sort()
            linked += [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]
            for name in sorted(files):
                _add_file(found, Path(parent, name))
            if (count := count + len(files)) > _MAX_FILES:
                raise ValueError(f"there are more than {_MAX_FILES:,} files in {folder} and what it links to")
    found.videos.sort()
    return found


def _add_file(found: Listing, path: Path) -> None:
    if is_video(path):
        if path.is_file():
            found.videos.append(path)
        else:
            found.skipped[path] = "a link that leads nowhere" if path.is_symlink() else "it is not a regular file"
    elif path.suffix.lower() not in _NON_VIDEO_SUFFIXES and has_video_signature(path):
        suffix = path.suffix or "none"
        found.skipped[path] = f"it begins like a video, and its suffix is {suffix}: rename it to label it"


def has_video_signature(path: Path) -> bool:
    """True if a file starts with the signature (magic bytes) of a video container."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False  # opening a pipe would block
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    starts = (b"\x1aE\xdf\xa3", b"FLV\x01", b"OggS", b"\0\0\1\xba", b"0&\xb2u\x8ef\xcf\x11", b".RMF", b"DKIF")
    packets = any(len(head) > at + size and head[at] == head[at + size] == 0x47 for at, size in ((0, 188), (4, 192)))
    boxes = head[4:8] == b"ftyp" and head[8:12] not in (b"M4A ", b"M4B ", b"heic", b"mif1", b"avif")
    return head.startswith(starts) or packets or boxes or (head[:4] == b"RIFF" and head[8:12] == b"AVI ")


def content_digest(path: Path, whole: bool = False) -> str:
    """Content digest of a file, independent of its name and time stamps (`contents.file_digest`).

    Only samples of large files are read unless `whole`, so a folder of terabytes takes seconds.

    Returns 32 hexadecimal digits, or one of `UNREAD`.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return "unreadable"  # opening a pipe would block
        return file_digest(path, whole)
    except FileNotFoundError:
        return "missing"
    except OSError:
        return "unreadable"


def utf8_path(path: str | Path) -> str:
    r"""A path as valid UTF-8 text: bytes that are not UTF-8 become `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def printable_path(path: str | Path) -> str:
    r"""A path as text for a terminal: bytes that are not UTF-8, and control characters, become `\xNN`."""
    return printable(utf8_path(path))


def name_problem(path: str | Path) -> str:
    """The reason why a file name cannot be stored in a dataset (it is not UTF-8), or ""."""
    try:
        os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return "its name is not UTF-8: rename it"
    return ""
