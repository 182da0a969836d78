"""Search and download of videos with yt-dlp, for tasks in the process sandbox (`sandbox.run_tasks`).

yt-dlp parses the sites; here it is restricted: no user settings or plugins, no other programs, no post-processing, and
no files but the video, in its folder.
"""

import copy
import hashlib
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vpt_jax.curation.download.metadata import RejectRules, VideoEntry, parse_entry, rejection_reason
from vpt_jax.curation.download.sandbox import confine
from vpt_jax.data.subtitles import MAX_BYTES
from vpt_jax.system.printable import sanitize
from vpt_jax.video import VideoError, probe
from vpt_jax.video_files import is_video

PRELOAD_MODULES = ("yt_dlp", "yt_dlp.extractor")  # which each process would import
COMPLETE_FILE = "whole"  # file name of a complete download
SUBTITLES_FILE = "whole.vtt"  # of its subtitles
MAX_BACKOFF = 600  # seconds between two attempts
# Error messages of sites for videos that are permanently unavailable, and for those that may be available later.
GONE_PATTERN = (
    r"private video|video is private|been removed|been deleted|no longer available|terminated|does not exist"
    r"|unavailable\.?$"
)
RETRY_PATTERN = r"try again|\blater\b|rate.?limit|too many|sign in to confirm|\bbot\b"


@dataclass(frozen=True)
class RequestPolicy:
    """Rate limit, retries and cookies of requests (fields: configs/web.py)."""

    pause: float  # seconds before every request
    bytes_per_second: float  # of one download; 0: unlimited
    retries: int
    backoff: float  # seconds before the first retry, doubled before each further one
    cookies: str  # text of a cookie file (Netscape format)


@dataclass(frozen=True)
class Requirements:
    """Requirements that a video must meet (fields: configs/web.py)."""

    rules: RejectRules
    min_height: int  # pixels
    max_bytes: int
    subtitles: str = ""  # language; "": none


class RejectedError(Exception):
    """The video does not meet the requirements; a retry is pointless."""


def search(query: str, results: int, min_height: int, policy: RequestPolicy) -> list[dict[str, Any]]:
    """Returns the videos of a search, playlist, channel, feed or page as fields of `VideoEntry`.

    The videos' own pages are not requested, unless `query` is the URL of one.
    """
    confine(None)
    time.sleep(policy.pause)  # yt-dlp pauses between its requests, but not before the first one
    with open_downloader(policy, min_height, playlistend=results) as downloader:
        found = _with_retries(lambda: downloader.extract_info(query, download=False), policy)
    entries = found.get("entries", [found])
    return [asdict(_identified_entry(entry)) for entry in entries if entry]


def fetch(entry: VideoEntry, folder: Path, requirements: Requirements, policy: RequestPolicy) -> dict[str, Any]:
    """Downloads a video as `COMPLETE_FILE` into `folder`, which is replaced; returns fields of `web.ArchiveRecord`."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chdir(folder)
    confine(folder)
    time.sleep(policy.pause)
    from yt_dlp.utils import YoutubeDLError

    try:
        return _fetch(entry, requirements, policy)
    except RejectedError as error:
        return {"state": "rejected", "reason": str(error)}
    except (YoutubeDLError, VideoError, OSError) as error:
        return {"state": state_for_error(error), "reason": sanitize(str(error).removeprefix("ERROR: "), 300)}


def _fetch(entry: VideoEntry, requirements: Requirements, policy: RequestPolicy) -> dict[str, Any]:
    progress_hooks = [lambda progress: _check_size(progress, requirements.max_bytes)]
    with open_downloader(policy, requirements.min_height, progress_hooks=progress_hooks) as downloader:
        info = _with_retries(lambda: downloader.extract_info(entry.url, download=False, ie_key=entry.site), policy)
        if info.get("_type", "video") != "video":
            raise RejectedError("not a single video: add its URL to config.urls")
        page = parse_entry(info, "", "")
        page = replace(page, url=entry.url, duration=page.duration or entry.duration)
        _check_rules(page, requirements.rules)
        page = replace(page, title=entry.title or page.title)
        downloader.process_ie_result(copy.deepcopy(info), download=True)
    if requirements.subtitles:
        _fetch_subtitles(info, requirements, policy)
    video = next((path for path in Path().iterdir() if path.stem == "video" and path.suffix != ".part"), None)
    if video is None:
        raise VideoError("unreadable video", "nothing was downloaded")
    return _inspect(video, page, requirements)


def _fetch_subtitles(info: dict[str, Any], requirements: Requirements, policy: RequestPolicy) -> None:
    """Downloads subtitles as `SUBTITLES_FILE`, if the site has any: those of people before automatic ones.

    A video is kept without them: sites limit requests for them more than those for videos.
    """
    from yt_dlp.utils import DownloadError

    options = {"writesubtitles": True, "writeautomaticsub": True, "subtitleslangs": [requirements.subtitles]}
    options |= {"subtitlesformat": "vtt", "skip_download": True, "max_filesize": MAX_BYTES}
    with suppress(DownloadError), open_downloader(policy, requirements.min_height, **options) as downloader:
        downloader.process_ie_result(info, download=True)
    for file in Path().glob("video.*.vtt"):
        file.rename(SUBTITLES_FILE)


def _inspect(video: Path, page: VideoEntry, requirements: Requirements) -> dict[str, Any]:
    """Checks a downloaded file against the requirements, syncs it to disk and renames it to `COMPLETE_FILE`."""
    properties = probe(video)
    _check_rules(replace(page, duration=page.duration or properties.seconds), requirements.rules)
    if properties.height < requirements.min_height:
        raise RejectedError(f"height below {requirements.min_height} pixels")
    with video.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    video.rename(COMPLETE_FILE)
    suffix = video.suffix if is_video(video) else ".video"
    return {
        "state": "taken", "suffix": suffix, "title": page.title, "duration": page.duration,
        "bytes": os.path.getsize(COMPLETE_FILE), "sha256": digest, **properties._asdict(),
    }  # fmt: skip


def _check_rules(entry: VideoEntry, rules: RejectRules) -> None:
    if reason := rejection_reason(entry, rules):
        raise RejectedError(reason)


def _check_size(progress: Mapping[str, Any], limit: int) -> None:
    if max(progress.get("downloaded_bytes") or 0, progress.get("total_bytes") or 0) > limit:
        raise RejectedError(f"larger than {limit:,} bytes")


def _with_retries(request: Callable[[], Any], policy: RequestPolicy) -> dict[str, Any]:
    """Retries a request with exponential backoff, unless its error says that the video is permanently unavailable."""
    from yt_dlp.utils import DownloadError

    for attempt in range(policy.retries + 1):
        try:
            return request() or {}
        except DownloadError as error:
            if attempt == policy.retries or state_for_error(error) == "gone":
                raise
            time.sleep(_backoff_seconds(policy, attempt))
    raise AssertionError("the last attempt returns or raises")


def _backoff_seconds(policy: RequestPolicy, attempt: int) -> float:
    return min(policy.backoff * 2**attempt, MAX_BACKOFF)


def state_for_error(error: Exception) -> str:
    """State of a video after an error: "gone" (permanently unavailable) or "failed" (a later retry may succeed)."""
    from yt_dlp.networking.exceptions import HTTPError
    from yt_dlp.utils import GeoRestrictedError

    causes = list(_causes(error))
    if any(isinstance(cause, HTTPError) and cause.status in (404, 410) for cause in causes):
        return "gone"
    if any(isinstance(cause, GeoRestrictedError) for cause in causes):
        return "gone"
    text = str(error)
    return "gone" if re.search(GONE_PATTERN, text, re.I) and not re.search(RETRY_PATTERN, text, re.I) else "failed"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and the chain of its causes, as stored by yt-dlp and Python; the chain may be circular."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        inner = getattr(error, "exc_info", None)
        error = (inner[1] if inner else None) or getattr(error, "cause", None) or error.__cause__


def _identified_entry(info: Mapping[str, Any]) -> VideoEntry:
    """Parses a search result; feeds and pages lack the site's name and id, which then follow from the URL."""
    from yt_dlp.extractor import gen_extractor_classes

    site, id = info.get("extractor_key") or info.get("ie_key"), info.get("id")
    if not (site and id):
        url = str(info.get("url") or "")
        suitable = next(extractor for extractor in gen_extractor_classes() if extractor.suitable(url))
        site, id = suitable.ie_key(), suitable.get_temp_id(url)
    return parse_entry(info, str(site), str(id or ""))


class _SilentLogger:
    """Drops yt-dlp's log messages: the exception at the end contains what matters."""

    def debug(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def error(self, message: str) -> None: ...


def open_downloader(policy: RequestPolicy, min_height: int, **more: Any) -> Any:
    """Creates a `yt_dlp.YoutubeDL` that selects the smallest format of at least `min_height` pixels.

    Args:
        policy: rate limit, retries and cookies of its requests.
        min_height: pixels.
        more: further options of yt-dlp.
    """
    from yt_dlp import YoutubeDL

    os.environ["YTDLP_NO_PLUGINS"] = "1"
    # Without sound if the site offers that; only formats that can be downloaded without an external program.
    formats = f"[height>=?{min_height}][protocol~='^(https?|http_dash_segments|m3u8_native)$']"
    backoff = lambda n: _backoff_seconds(policy, n)  # noqa: E731
    options = {
        "format": f"bestvideo{formats}/bestvideo*{formats}",
        "format_sort": [f"res:{min_height}", "fps:30", "vcodec:h264", "+size", "+br"],  # the smallest sufficient one
        "extract_flat": "in_playlist", "noplaylist": True, "outtmpl": "video.%(ext)s", "overwrites": True,
        "cachedir": False, "cookiefile": io.StringIO(policy.cookies) if policy.cookies else None, "updatetime": False,
        "fixup": "never", "external_downloader": "native", "hls_prefer_native": True, "js_runtimes": {},
        "skip_unavailable_fragments": False, "socket_timeout": 30, "ratelimit": policy.bytes_per_second or None,
        "sleep_interval_requests": policy.pause, "sleep_interval": policy.pause,
        "retries": policy.retries, "fragment_retries": policy.retries, "extractor_retries": policy.retries,
        "retry_sleep_functions": dict.fromkeys(("http", "fragment", "extractor"), backoff),
        "quiet": True, "noprogress": True, "no_color": True, "logger": _SilentLogger(),
    }  # fmt: skip
    return YoutubeDL(options | more)
