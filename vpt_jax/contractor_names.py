"""Names of contractor recordings, parsed: recorder version, player, session and start time.

OpenAI's files lie at `<recorder-version>/<player>-<session>-<date>-<time>` (README of openai/Video-Pre-Training, "Data
format"), and their records say none of this. The downloader keeps the version as a prefix: `6.9_NAME`. Not every
`session` is a single one: `f153ac423f61` is in names of several players, over five months.
"""

import re
from datetime import datetime
from pathlib import PurePath
from typing import NamedTuple

_VERSION = re.compile(r"\d{1,3}\.\d{1,3}")
_VERSION_PREFIX = re.compile(rf"(?P<version>{_VERSION.pattern})_(?=.)")
# After the downloader's `FOLDER_`; a digest may follow. Players' names have no "_".
_NAME = re.compile(
    r"(.*_)?(?P<player>[^_]+)-(?P<session>[0-9a-f]{12})-(?P<time>\d{8}-\d{6})(-[0-9a-f]{16})?", re.DOTALL
)
_SEGMENT = re.compile(r"@\d+-\d+$")  # of a manifest: `VIDEO@200-340`
_SPLITS = ("train", "valid", "test")


class ContractorName(NamedTuple):
    """The parts of a contractor recording's name."""

    player: str
    session: str  # twelve hexadecimal digits: files of one player and session are segments of the same play
    start: datetime | None  # of the segment, in whole seconds; None if the digits are no time


def video_of(name: str) -> str:
    """The name of the video that an episode was cut from, or its own."""
    return _SEGMENT.sub("", name)


def parse_name(name: str) -> ContractorName | None:
    """The parts of a recording's or episode's name, in a folder or not; None if it is not named like a contractor's."""
    if not (match := _NAME.fullmatch(video_of(name).rpartition("/")[2])):
        return None
    try:
        start = datetime.strptime(match["time"], "%Y%m%d-%H%M%S")
    except ValueError:
        start = None
    return ContractorName(match["player"], match["session"], start)


def recorder_version(path: PurePath) -> str | None:
    """The recorder version by a recording's path; None if the path does not tell.

    It is the prefix of the name, `6.9_NAME`, or the folder, `6.9/NAME`, in which train, valid and test may lie.
    """
    if match := _VERSION_PREFIX.match(path.name):
        return match["version"]
    folders = [name for name in path.parts[-3:-1] if name not in _SPLITS]
    return folders[-1] if folders and _VERSION.fullmatch(folders[-1]) else None
