"""Parser of contractor recordings' names: recorder version, player, session and start time.

OpenAI's files are named `<recorder-version>/<player>-<session>-<date>-<time>` (README of openai/Video-Pre-Training,
"Data format"), and their records contain none of this. The downloader keeps the version as a prefix: `6.9_NAME`. A
`session` is not always a single one: `f153ac423f61` is in names of several players, over five months.
"""

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import PurePath
from typing import NamedTuple

_VERSION = re.compile(r"\d{1,3}\.\d{1,3}")
_VERSION_PREFIX = re.compile(rf"(?P<version>{_VERSION.pattern})_(?=.)")
# The downloader's prefix `FOLDER_` is optional, and so is its digest at the end. Names of players contain no "_".
_NAME = re.compile(
    r"(.*_)?(?P<player>[^_]+)-(?P<session>[0-9a-f]{12})-(?P<time>\d{8}-\d{6})(-[0-9a-f]{16})?", re.DOTALL
)
_SEGMENT = re.compile(r"@\d+-\d+$")  # suffix of a segment of a manifest: `VIDEO@200-340`
_SPLITS = ("train", "valid", "test")


class ContractorName(NamedTuple):
    """Parts of a contractor recording's name."""

    player: str
    session: str  # twelve hexadecimal digits: files of one player and session are segments of the same play
    start: datetime | None  # of the segment, in whole seconds; None if the digits are not a valid time


def video_name(name: str) -> str:
    """Name of the video that an episode was cut from; the episode's own name if it is not a segment."""
    return _SEGMENT.sub("", name)


def parse_name(name: str) -> ContractorName | None:
    """Parses the name of a recording or episode, with or without a folder; None if it has another form."""
    if not (match := _NAME.fullmatch(video_name(name).rpartition("/")[2])):
        return None
    try:
        start = datetime.strptime(match["time"], "%Y%m%d-%H%M%S")
    except ValueError:
        start = None
    return ContractorName(match["player"], match["session"], start)


def recorder_version(path: PurePath) -> str | None:
    """Recorder version in a recording's path; None if the path has none.

    It is the prefix of the name, `6.9_NAME`, or the folder, `6.9/NAME`, which may contain train, valid and test.
    """
    if match := _VERSION_PREFIX.match(path.name):
        return match["version"]
    folders = [name for name in path.parts[-3:-1] if name not in _SPLITS]
    return folders[-1] if folders and _VERSION.fullmatch(folders[-1]) else None


def is_version(version: str, wanted: Iterable[str]) -> bool:
    """True if a recorder version is one of those wanted, of which `8` stands for all 8.x."""
    return any(f"{version}.".startswith(f"{one}.") for one in wanted)
