"""The two questions put to yt-dlp: what is there, and one video, please. Each is asked in a process of its own.

yt-dlp knows the sites; what it may do is said here: no settings or plugins of the user's, no other programs, no
post-processing, nothing written but the video, in its folder.
"""

import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vpt_jax.curation.download.metadata import Entry, Rules, clean, read_entry, reject
from vpt_jax.curation.download.sandbox import confine
from vpt_jax.video import VideoError, probe
from vpt_jax.video_files import is_video

LIBRARIES = ("yt_dlp", "yt_dlp.extractor")  # what each process would import
WHOLE = "whole"  # name of a download that is complete
LONGEST_PAUSE = 600  # seconds between two attempts
# Words by which sites say that a video is not there for us, and those by which they say that it may be later.
GONE = (
    r"private video|video is private|been removed|been deleted|no longer available|terminated|does not exist"
    r"|unavailable\.?$"
)
LATER = r"try again|later|rate.?limit|too many|sign in to confirm|bot"


@dataclass(frozen=True)
class Manners:
    """How sites are asked (fields: configs/web.py)."""

    pause: float  # seconds before every request
    rate: float  # bytes per second, of one download
    retries: int
    backoff: float  # seconds before the second attempt, doubled for each further one
    cookies: str  # text of a Netscape cookie file


@dataclass(frozen=True)
class Wanted:
    """What is taken (fields: configs/web.py)."""

    rules: Rules
    height: int  # pixels, at least
    max_bytes: int


class UnwantedError(Exception):
    """The video is ruled out by something that asking again will not change."""


def search(query: str, results: int, height: int, manners: Manners) -> list[dict[str, Any]]:
    """The videos that a search, playlist, channel, feed or page holds, as fields of `Entry`.

    Nothing of the videos themselves is asked for, unless `query` is the address of one.
    """
    confine(None)
    time.sleep(manners.pause)  # yt-dlp pauses between its requests only
    with open_downloader(manners, height, playlistend=results) as downloader:
        found = _patiently(lambda: downloader.extract_info(query, download=False), manners)
    entries = found.get("entries", [found])
    return [asdict(_identify(entry)) for entry in entries if entry]


def fetch(entry: Entry, folder: Path, wanted: Wanted, manners: Manners) -> dict[str, Any]:
    """Downloads a video to `folder`, made anew, as `WHOLE`; returns fields of `web.Record`, `state` among them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    confine(folder)
    time.sleep(manners.pause)
    from yt_dlp.utils import YoutubeDLError

    try:
        return _fetch(entry, wanted, manners)
    except UnwantedError as error:
        return {"state": "rejected", "reason": str(error)}
    except (YoutubeDLError, VideoError, OSError) as error:
        return {"state": state_after(error), "reason": clean(str(error).removeprefix("ERROR: "), 300)}


def _fetch(entry: Entry, wanted: Wanted, manners: Manners) -> dict[str, Any]:
    guard = [lambda progress: _check_size(progress, wanted.max_bytes)]
    with open_downloader(manners, wanted.height, progress_hooks=guard) as downloader:
        info = _patiently(lambda: downloader.extract_info(entry.url, download=False, ie_key=entry.site), manners)
        if info.get("_type", "video") != "video":
            raise UnwantedError("no single video: name its address in config.urls")
        told = read_entry(info, "", "")
        told = replace(told, url=entry.url, duration=told.duration or entry.duration)
        _check(told, wanted.rules)
        told = replace(told, title=entry.title or told.title)
        downloader.process_ie_result(info, download=True)
    video = next((path for path in Path().iterdir() if path.stem == "video" and path.suffix != ".part"), None)
    if video is None:
        raise VideoError("unreadable video", "nothing was downloaded")
    return _describe(video, told, wanted)


def _describe(video: Path, told: Entry, wanted: Wanted) -> dict[str, Any]:
    """What the file itself says; it gets its last name in this folder if it is as wanted."""
    facts = probe(video)
    _check(replace(told, duration=told.duration or facts.seconds), wanted.rules)
    if facts.height < wanted.height:
        raise UnwantedError(f"lower than {wanted.height} pixels")
    with video.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    video.rename(WHOLE)
    suffix = video.suffix if is_video(video) else ".video"
    told_facts = {"title": told.title, "duration": told.duration, "bytes": os.path.getsize(WHOLE), "sha256": digest}
    return {"state": "taken", "suffix": suffix, **told_facts, **facts._asdict()}


def _check(entry: Entry, rules: Rules) -> None:
    if reason := reject(entry, rules):
        raise UnwantedError(reason)


def _check_size(progress: Mapping[str, Any], limit: int) -> None:
    if max(progress.get("downloaded_bytes") or 0, progress.get("total_bytes") or 0) > limit:
        raise UnwantedError(f"larger than {limit:,} bytes")


def _patiently(ask: Callable[[], Any], manners: Manners) -> dict[str, Any]:
    """Asks again, ever later, while the answer is that there may be one later."""
    from yt_dlp.utils import DownloadError

    for attempt in range(manners.retries + 1):
        try:
            return ask() or {}
        except DownloadError as error:
            if attempt == manners.retries or state_after(error) == "gone":
                raise
            time.sleep(_pause(manners, attempt))
    raise AssertionError("the last attempt returns or raises")


def _pause(manners: Manners, attempt: int) -> float:
    return min(manners.backoff * 2**attempt, LONGEST_PAUSE)


def state_after(error: Exception) -> str:
    """What an error means for the video: it is gone, or it failed and may be had another time."""
    from yt_dlp.networking.exceptions import HTTPError
    from yt_dlp.utils import GeoRestrictedError

    causes = list(_causes(error))
    if any(isinstance(cause, HTTPError) and cause.status in (404, 410) for cause in causes):
        return "gone"
    if any(isinstance(cause, GeoRestrictedError) for cause in causes):
        return "gone"
    text = str(error)
    return "gone" if re.search(GONE, text, re.I) and not re.search(LATER, text, re.I) else "failed"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it, as yt-dlp and Python keep it; they may go round in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "exc_info", None)
        error = (inner[1] if inner else None) or getattr(error, "cause", None) or error.__cause__


def _identify(info: Mapping[str, Any]) -> Entry:
    """The entry under the site's name and id, which feeds and pages do not tell and addresses do."""
    from yt_dlp.extractor import gen_extractor_classes

    site, id = info.get("extractor_key") or info.get("ie_key"), info.get("id")
    if not (site and id):
        url = str(info.get("url") or "")
        suitable = next(extractor for extractor in gen_extractor_classes() if extractor.suitable(url))
        site, id = suitable.ie_key(), suitable.get_temp_id(url)
    return read_entry(info, str(site), str(id or ""))


class _Silent:
    """What yt-dlp says on its way is in the error that it ends with."""

    def debug(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


def open_downloader(manners: Manners, height: int, **more: Any) -> Any:
    """A `yt_dlp.YoutubeDL` of these manners that takes films at least so high; `more` options of its own."""
    from yt_dlp import YoutubeDL

    os.environ["YTDLP_NO_PLUGINS"] = "1"
    # Silent where the site offers it, and of what the site can send without another program's help.
    formats = f"[height>=?{height}][protocol~='^(https?|http_dash_segments|m3u8_native)$']"
    wait = lambda n: _pause(manners, n)  # noqa: E731
    options = {
        "format": f"bestvideo{formats}/bestvideo*{formats}",
        "format_sort": [f"res:{height}", "fps:30", "vcodec:h264", "+size", "+br"],  # the smallest that is enough
        "extract_flat": "in_playlist", "noplaylist": True, "outtmpl": "video.%(ext)s", "overwrites": True,
        "cachedir": False, "cookiefile": io.StringIO(manners.cookies) if manners.cookies else None, "updatetime": False,
        "fixup": "never", "external_downloader": "native", "hls_prefer_native": True, "js_runtimes": {},
        "skip_unavailable_fragments": False, "socket_timeout": 30, "ratelimit": manners.rate or None,
        "sleep_interval_requests": manners.pause, "sleep_interval": manners.pause,
        "retries": manners.retries, "fragment_retries": manners.retries, "extractor_retries": manners.retries,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor"), wait),
        "quiet": True, "noprogress": True, "no_color": True, "logger": _Silent(),
    }  # fmt: skip
    return YoutubeDL(options | more)
