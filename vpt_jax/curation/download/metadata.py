"""What a site says about a video, and whether that rules it out. All of it was written by strangers."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

TITLE, DESCRIPTION = 300, 5000  # characters of each that are kept
TAGS = 100
ADDRESS = 2000  # characters; longer ones are none
NAME = re.compile(r"[A-Za-z0-9]{1,32}[-+][A-Za-z0-9_-]{1,64}")  # all that `safe_name` gives is of this form
SMUGGLED = "#__youtubedl_smuggle"  # yt-dlp hangs notes to itself on addresses


@dataclass(frozen=True)
class Entry:
    """A video that was found."""

    id: str  # names its file: the site and the site's id, or a digest of what is no fit name
    site: str  # yt-dlp's name of the extractor
    url: str  # as yt-dlp wants it, if it has no more than `ADDRESS` characters
    title: str
    description: str
    tags: tuple[str, ...]
    duration: float | None  # seconds; None: not told
    live: bool  # goes on, or has not begun
    age_limit: int  # years

    @property
    def address(self) -> str:
        """The address without yt-dlp's notes."""
        return self.url.partition(SMUGGLED)[0]


@dataclass(frozen=True)
class Rules:
    """What rules a video out (fields: configs/web.py)."""

    words: tuple[str, ...]
    min_seconds: float
    max_seconds: float
    age_limit: int


def read_entry(info: Mapping[str, Any], extractor: str, id: str) -> Entry:
    """What yt-dlp tells about a video, of the right types and of bounded length, whatever the site wrote.

    Args:
        info: of a search result or of a video.
        extractor: yt-dlp's name of the site; "Generic" or empty for pages of no known site.
        id: the site's id of the video.
    """
    url = str(info.get("webpage_url") or info.get("url") or "")
    tags = info.get("tags")
    return Entry(
        id=safe_name(extractor, id, url.partition(SMUGGLED)[0]),
        site=clean(extractor, TITLE),
        url=url[: ADDRESS + 1],
        title=clean(info.get("title"), TITLE),
        description=clean(info.get("description"), DESCRIPTION),
        tags=tuple(clean(tag, TITLE) for tag in tags[:TAGS]) if isinstance(tags, list | tuple) else (),
        duration=_seconds(info.get("duration")),
        live=bool(info.get("is_live")) or info.get("live_status") in ("is_live", "is_upcoming", "post_live"),
        age_limit=int(_seconds(info.get("age_limit")) or 0),
    )


def safe_name(extractor: str, id: str, url: str) -> str:
    """A file name without suffix, the same for the same video and for no other one.

    It is `SITE-ID` where both are plain. Otherwise it ends in a digest: of the id or, for pages of no known site, whose
    ids are the last part of their address, of the whole address.
    """
    known = extractor and extractor.lower() != "generic" and id
    site = (re.sub(r"[^A-Za-z0-9]", "", extractor)[:32] if known else "") or "Web"
    if known and site == extractor and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", id):
        return f"{site}-{id}"
    identity = f"{extractor}\n{id}" if known else url
    return f"{site}+{hashlib.sha256(identity.encode(errors='replace')).hexdigest()[:24]}"


def clean(text: Any, length: int) -> str:
    """At most so many characters of a text, all of them printable; empty if it is none."""
    if not isinstance(text, str):
        return ""
    return "".join(letter if letter.isprintable() else " " for letter in text[:length])


def reject(entry: Entry, rules: Rules) -> str | None:
    """Why a video is left out; None if it is not. What is not told rules nothing out."""
    if not entry.url.startswith(("http://", "https://")) or len(entry.url) > ADDRESS or not entry.url.isprintable():
        return "no web address"
    if entry.live:
        return "live"
    if entry.age_limit > rules.age_limit:
        return f"for ages over {rules.age_limit}"
    if entry.duration is not None and entry.duration < rules.min_seconds:
        return f"shorter than {rules.min_seconds:g} s"
    if entry.duration is not None and entry.duration > rules.max_seconds:
        return f"longer than {rules.max_seconds:g} s"
    return _reject_by_words(entry, rules.words)


def _reject_by_words(entry: Entry, words: Sequence[str]) -> str | None:
    texts = {"title": entry.title, "description": entry.description, "tags": " | ".join(entry.tags)}
    for field, text in texts.items() if words else ():
        if found := _pattern(tuple(words)).search(_fold(text)):
            return f"'{' '.join(found[0].split())}' in {field}"
    return None


@cache
def _pattern(words: tuple[str, ...]) -> re.Pattern:
    """Finds any of the words and phrases where no letter, digit or underscore comes before or after."""
    phrases = (r"\s+".join(map(re.escape, _fold(word).split())) for word in words)
    return re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)")


def _fold(text: str) -> str:
    """Equal for texts that differ in case, or in the width of their letters, only."""
    return unicodedata.normalize("NFKC", text).casefold()


def _seconds(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and 0 <= value < 1e9 else None
