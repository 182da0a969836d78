"""Frames of an OWAMcap recording: images in the messages of topic "screen", or frames of a video beside the file."""

import base64
import binascii
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vpt_jax.data.bridges.mcap_file import MAX_RECORD, Message, parse_message, read_mcap
from vpt_jax.data.bridges.stored_images import decode_image
from vpt_jax.data.bridges.videos import FrameFinder, file_inside
from vpt_jax.recording import BrokenRecordingError
from vpt_jax.video import Frame

SCREEN = "screen"
TOLERANCE = 0.05  # seconds: recorders round times to milliseconds, and a frame further off is another one
MAX_CLOCK_ERROR = 60 * 10**9  # nanoseconds between a capture and its message; more is another clock
_DATA_URI = re.compile(r"data:image/[\w.+-]+;base64,")


def screen_time(fields: dict[str, Any], log_time: int) -> int:
    """Time of a frame in nanoseconds: of its capture, or of its message if that is missing or of another clock."""
    time = fields.get("utc_ns")
    if isinstance(time, int) and not isinstance(time, bool) and abs(time - log_time) <= MAX_CLOCK_ERROR:
        return time
    return log_time


def external_uri(path: Path, message: Message) -> str:
    """The file that a message of topic "screen" refers to; "" for an embedded image."""
    uri, _ = _media_ref(path, parse_message(path, message, MAX_RECORD), message)
    return "" if uri.startswith("data:") else uri


def screen_frames(path: Path, origin: int) -> Iterator[tuple[float, Frame]]:
    """Frames with their times in seconds from `origin` nanoseconds, one at a time.

    A frame that is not later than its predecessor is left out.

    Raises:
        BrokenRecordingError: a frame is missing or damaged, or lies outside the recording's folder.
    """
    last: int | None = None
    finder: FrameFinder | None = None
    for record in read_mcap(path, frozenset({SCREEN})):
        if not isinstance(record, Message):
            continue
        fields = parse_message(path, record, MAX_RECORD)
        time = screen_time(fields, record.log_time)
        if last is not None and time <= last:
            continue
        last = time
        uri, pts_ns = _media_ref(path, fields, record)
        if uri.startswith("data:"):
            yield (time - origin) / 1e9, _embedded(path, uri, record.log_time)
        elif pts_ns is None:
            raise BrokenRecordingError(path, "missing field", f"{_where(record)}: `media_ref` has no pts_ns")
        else:
            video = file_inside(path.parent, uri, path)
            if finder is None or finder.video != video:
                finder = FrameFinder(video, path, TOLERANCE)
            yield (time - origin) / 1e9, finder.at(pts_ns / 1e9)


def _embedded(path: Path, uri: str, log_time: int) -> Frame:
    where = f"topic {SCREEN!r} at {log_time} ns"
    if not (match := _DATA_URI.match(uri)):
        raise BrokenRecordingError(path, "damaged video", f"{where}: {uri[:60]!r} is not an image in base 64")
    try:
        data = base64.b64decode(uri[match.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise BrokenRecordingError(path, "damaged video", f"{where}: {error}") from error
    return decode_image(data, path, where)


def _media_ref(path: Path, fields: dict[str, Any], message: Message) -> tuple[str, int | None]:
    """Address of a frame, and its presentation time in nanoseconds if it is in a video."""
    reference = fields.get("media_ref")
    uri = reference.get("uri") if isinstance(reference, dict) else None
    if not isinstance(reference, dict) or not isinstance(uri, str) or not uri:
        raise BrokenRecordingError(path, "missing field", f"{_where(message)}: `media_ref` has no uri")
    pts_ns = reference.get("pts_ns")
    if pts_ns is not None and (not isinstance(pts_ns, int) or not 0 <= pts_ns < 2**62):
        raise BrokenRecordingError(path, "bad value", f"{_where(message)}: `pts_ns` is {pts_ns!r}")
    return uri, pts_ns


def _where(message: Message) -> str:
    return f"topic {message.topic!r} at {message.log_time} ns"
