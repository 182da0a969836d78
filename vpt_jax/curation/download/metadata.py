"""Video metadata from a site: sanitized parsing, rejection rules and safe file names. All of it is untrusted input."""

import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from vpt_jax.system.printable import sanitize

MAX_TITLE, MAX_DESCRIPTION = 300, 5000  # characters that are kept
MAX_TAGS = 100
MAX_URL = 2000  # characters; videos with longer URLs are rejected
SAFE_NAME = re.compile(r"[A-Za-z0-9]{1,32}[-+][A-Za-z0-9_-]{1,64}")  # form of every result of `safe_name`
SMUGGLE_MARKER = "#__youtubedl_smuggle"  # yt-dlp appends internal data to URLs after this marker


@dataclass(frozen=True)
class VideoEntry:
    """Metadata of a video in a search result or on its page."""

    id: str  # file name: the site and the site's id, or a digest where these are not safe as a file name
    site: str  # yt-dlp's name of the extractor
    url: str  # as yt-dlp needs it; truncated if it is longer than `MAX_URL`
    title: str
    description: str
    tags: tuple[str, ...]
    duration: float | None  # seconds; None: unknown
    live: bool  # a live stream, or one that has not started
    age_limit: int  # years

    @property
    def page_url(self) -> str:
        """The URL without yt-dlp's internal data."""
        return self.url.partition(SMUGGLE_MARKER)[0]


@dataclass(frozen=True)
class RejectRules:
    """Rules by which metadata reject a video (fields: configs/web.py)."""

    words: tuple[str, ...]
    min_seconds: float
    max_seconds: float
    age_limit: int


def parse_entry(info: Mapping[str, Any], extractor: str, id: str) -> VideoEntry:
    """Parses yt-dlp's metadata of a video into fields of the right types and of bounded length, for any input.

    Args:
        info: of a search result or of a video.
        extractor: yt-dlp's name of the site; "Generic" or empty for pages of unknown sites.
        id: the site's id of the video.
    """
    url = str(info.get("webpage_url") or info.get("url") or "")
    tags = info.get("tags")
    return VideoEntry(
        id=safe_name(extractor, id, url.partition(SMUGGLE_MARKER)[0]),
        site=sanitize(extractor, MAX_TITLE),
        url=url[: MAX_URL + 1],
        title=sanitize(info.get("title"), MAX_TITLE),
        description=sanitize(info.get("description"), MAX_DESCRIPTION),
        tags=tuple(sanitize(tag, MAX_TITLE) for tag in tags[:MAX_TAGS]) if isinstance(tags, list | tuple) else (),
        duration=_number(info.get("duration")),
        live=bool(info.get("is_live")) or info.get("live_status") in ("is_live", "is_upcoming", "post_live"),
        age_limit=int(_number(info.get("age_limit")) or 0),
    )


def safe_name(extractor: str, id: str, url: str) -> str:
    """Unique and deterministic file name of a video, without suffix.

    It is `SITE-ID` if both have safe characters only. Otherwise it ends in a digest: of the id or, for pages of unknown
    sites, whose ids are the last part of their URL, of the complete URL.
    """
    known = extractor and extractor.lower() != "generic" and id
    site = (re.sub(r"[^A-Za-z0-9]", "", extractor)[:32] if known else "") or "Web"
    if known and site == extractor and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", id):
        return f"{site}-{id}"
    identity = f"{extractor}\n{id}" if known else url
    return f"{site}+{hashlib.sha256(identity.encode(errors='replace')).hexdigest()[:24]}"


def rejection_reason(entry: VideoEntry, rules: RejectRules) -> str | None:
    """Returns the reason for which a video is rejected, or None. Unknown values reject nothing."""
    if not entry.url.startswith(("http://", "https://")) or len(entry.url) > MAX_URL or not entry.url.isprintable():
        return "no http(s) URL"
    if entry.live:
        return "live"
    if entry.age_limit > rules.age_limit:
        return f"age limit over {rules.age_limit}"
    if entry.duration is not None and entry.duration < rules.min_seconds:
        return f"shorter than {rules.min_seconds:g} s"
    if entry.duration is not None and entry.duration > rules.max_seconds:
        return f"longer than {rules.max_seconds:g} s"
    return _rejected_word(entry, rules.words)


def _rejected_word(entry: VideoEntry, words: Sequence[str]) -> str | None:
    texts = {"title": entry.title, "description": entry.description, "tags": " | ".join(entry.tags)}
    for field, text in texts.items() if words else ():
        if found := _word_pattern(tuple(words)).search(normalize(text)):
            return f"'{' '.join(found[0].split())}' in {field}"
    return None


@cache
def _word_pattern(words: tuple[str, ...]) -> re.Pattern:
    """Pattern of any of the words and phrases, without a letter, digit or underscore directly before or after."""
    phrases = (r"\s+".join(map(re.escape, normalize(word).split())) for word in words)
    return re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)")


def normalize(text: str) -> str:
    """Case-folded text in Unicode form NFKC: equal for texts that differ only in case or in the width of letters."""
    return unicodedata.normalize("NFKC", text).casefold()


def _number(value: Any) -> float | None:
    """A number from 0 to 1e9 as float; None for other values."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < 1e9 else None
