"""Subtitles beside a video, NAME.vtt or NAME.srt, as captions of its frames. All of it is untrusted.

Cues that cannot be read are skipped: subtitles are no reason to leave out a video. Automatic captions of web sites
repeat the line before in every cue; it is left out.
"""

import hashlib
import html
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vpt_jax.data.captions import Caption, clean_text
from vpt_jax.system.contents import file_digest
from vpt_jax.video import FRAME_RATE

SUFFIXES = (".vtt", ".srt")
MAX_BYTES = 2**24  # of a file; more is not read
MAX_CUES = 200_000  # of a file
_TIME = r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})"
_TIMES = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")
_TAG = re.compile(r"<[^<>]{0,200}>|\{\\[^{}]{0,200}\}")  # of WebVTT and SubRip; styles of SSA


class Cue(NamedTuple):
    """Text that is shown from a time to another, in seconds from the start of the video."""

    start: float
    end: float
    text: str


def find_subtitles(video: Path) -> Path | None:
    """The file of subtitles beside a video; None: there is none."""
    files = (video.with_name(name + suffix) for name in (video.stem, video.name) for suffix in SUFFIXES)
    return next((file for file in files if os.path.isfile(file)), None)  # False also for names that are too long


def subtitles_digest(videos: Iterable[Path]) -> str:
    """Hash of all subtitles beside some videos; empty: there are none."""
    files = sorted({found for video in videos if (found := find_subtitles(video))})
    lines = "".join(f"{file.name} {file_digest(file)}\n" for file in files)
    return hashlib.sha256(lines.encode(errors="replace")).hexdigest()[:16] if files else ""


def subtitle_captions(file: Path, first: int = 0, stop: int | None = None) -> list[Caption]:
    """Captions of a range of a video's frames, at 20 per second, counted from `first`.

    Of cues that overlap, the one that begins later holds.
    """
    captions: list[Caption] = []
    cues = sorted(read_cues(file))
    for cue, following in zip(cues, [*cues[1:], None], strict=True):
        start, end = (round(seconds * FRAME_RATE) for seconds in (cue.start, cue.end))
        changes = [(start, cue.text)]
        if following is None or round(following.start * FRAME_RATE) > end:
            changes.append((end, ""))
        for frame, text in changes:
            captions = _changed(captions, max(frame - first, 0), text)
    return [caption for caption in captions if stop is None or caption.frame < stop - first]


def _changed(captions: list[Caption], frame: int, text: str) -> list[Caption]:
    """Captions with a change at a frame, which is not before the last one."""
    while captions and captions[-1].frame == frame:
        captions.pop()
    if text != (captions[-1].text if captions else ""):
        captions.append(Caption(frame, text))
    return captions


def read_cues(file: Path) -> list[Cue]:
    """Cues with text, in the order of the file; none if it is too large or cannot be read."""
    try:
        if not file.is_file() or file.stat().st_size > MAX_BYTES:
            return []
        lines = file.read_bytes().decode(errors="replace").removeprefix("\ufeff").splitlines()
    except OSError:
        return []
    found, before = [], ""
    for start, end, texts in _blocks(lines):
        shown = [text for line in texts if (text := clean_text(html.unescape(_TAG.sub("", line))))]
        new = shown[1:] if shown[:1] == [before] and len(shown) > 1 else shown
        before = shown[-1] if shown else before
        if new and start < end:
            found.append(Cue(start, end, clean_text(" ".join(new))))
        if len(found) == MAX_CUES:
            break
    return found


def _blocks(lines: Sequence[str]) -> Iterator[tuple[float, float, list[str]]]:
    """Start, end and lines of text of every cue: the lines after its times, up to an empty one.

    Automatic captions may begin with a line that is one space. After text, such a line ends the cue, since people write
    it by mistake for an empty one.
    """
    times, texts = None, list[str]()
    for line in [*lines, ""]:
        if found := _TIMES.match(line):
            times, texts = found, []
        elif times and not line.strip() and (texts or not line):
            parts = [int(part or 0) for part in times.groups()]
            yield _seconds(*parts[:4]), _seconds(*parts[4:]), texts
            times = None
        elif times and line.strip():
            texts.append(line)


def _seconds(hours: int, minutes: int, seconds: int, milliseconds: int) -> float:
    return 3600 * hours + 60 * minutes + seconds + milliseconds / 1000
