"""Web crawler for videos: search, rejection by metadata, download, and a journal of all results (paper App. A.1).

    OUT/searches.jsonl      results of each search: no search is repeated
    OUT/archive.jsonl       a line per video; after a retry, the last line of a video is valid
    OUT/archive.parquet     the same as a table, a row per video
    OUT/videos.parquet      manifest of the downloaded videos (vpt_jax/data/manifest.py)
    OUT/videos/ID.SUFFIX    the videos
    OUT/videos/ID.vtt       their subtitles, with config.subtitles, where the site has them
    OUT/partial/            incomplete downloads

The line of a video is written before its file is renamed to its final name, so no video with a line is downloaded
again. After a kill, downloads in progress are repeated, and so are complete ones without a line.
"""

import re
import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
from ml_collections import ConfigDict

from vpt_jax.curation.download import sandbox, ytdlp
from vpt_jax.curation.download.journal import Journal, JournalError
from vpt_jax.curation.download.metadata import MAX_URL, SAFE_NAME, RejectRules, VideoEntry, rejection_reason
from vpt_jax.data.manifest import is_inside, write_table
from vpt_jax.system.atomic_files import publish
from vpt_jax.system.disk_errors import raise_disk_errors_as
from vpt_jax.system.errors import UserError
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.printable import printable, sanitize
from vpt_jax.system.workers import locked, progress_bar

SEARCH_TIMEOUT = 3600  # seconds per search


class CollectError(UserError):
    """The videos cannot be collected as configured; the message names the remedy."""


@dataclass(frozen=True)
class ArchiveRecord:
    """Result for a video: a line of the archive."""

    id: str  # of site and video; stem of the file's name
    url: str
    title: str
    term: str  # the search term, or the URL of config.urls, that found it first
    duration: float | None  # seconds, as stated by the site
    state: str  # "taken", "rejected", "failed" (a retry may succeed) or "gone" (permanently unavailable)
    reason: str | None = None  # for which it was not taken
    file: str | None = None  # path relative to the folder
    bytes: int | None = None
    sha256: str | None = None
    width: int | None = None  # pixels; this and the next three fields are read from the file
    height: int | None = None
    fps: float | None = None
    seconds: float | None = None
    when: str = ""  # UTC, ISO 8601


ARCHIVE = pa.schema(
    [(name, pa.string()) for name in ("id", "url", "title", "term")]
    + [("duration", pa.float64()), ("state", pa.string()), ("reason", pa.string()), ("file", pa.string())]
    + [("bytes", pa.int64()), ("sha256", pa.string()), ("width", pa.int32()), ("height", pa.int32())]
    + [("fps", pa.float64()), ("seconds", pa.float64()), ("when", pa.string())]
)
MANIFEST = pa.schema([*ARCHIVE, ("video", pa.string()), ("start", pa.float64()), ("end", pa.float64())])


def collect(config: ConfigDict) -> Path:
    """Searches for videos and downloads the missing ones to `config.out`; returns that folder (fields: configs/web.py).

    Videos that were downloaded before an error are kept.

    Raises:
        CollectError: settings are invalid, `max_failures` requests failed in a row, or no search was answered.
        FolderInUseError: another run uses that folder.
    """
    refuse_remote_paths(config)
    _check(config)
    out, rules = Path(config.out).resolve(), _rules(config)
    with raise_disk_errors_as(out, CollectError), locked(out):
        try:
            archive, searches = Journal(out / "archive.jsonl"), Journal(out / "searches.jsonl")
            known = _read_archive(archive)
        except JournalError as error:
            raise CollectError(str(error)) from error
        _finish_moves(out, known.values())
        found, unanswered = _search(config, searches)
        new = [(term, entry) for term, entry in found if _is_pending(known.get(entry.id), config.retry_failed)]
        screened = [(term, entry, rejection_reason(entry, rules)) for term, entry in new]
        if config.dry_run:
            print(_dry_run_summary(found, new, screened))
            if unanswered:
                raise CollectError(unanswered)
            return out
        archive.append(*(asdict(_record(t, e, state="rejected", reason=why)) for t, e, why in screened if why))
        try:
            _download(config, out, archive, [(term, entry) for term, entry, why in screened if not why])
        finally:
            records = _read_archive(archive)
            _write_tables(out, records.values())
        print(_summary(out, records.values()))
    if unanswered:
        raise CollectError(unanswered)
    return out


def _check(config: ConfigDict) -> None:
    if not config.out:
        raise CollectError("set the folder of the videos: --config.out=FOLDER")
    if not (config.terms or config.urls):
        raise CollectError("no search terms or URLs: set config.terms or config.urls")
    for field in ("max_results", "height", "max_bytes", "workers", "timeout_seconds", "max_failures"):
        if config[field] < 1:
            raise CollectError(f"config.{field} is {config[field]}, and must be 1 or more")
    for field in ("pause_seconds", "bytes_per_second", "retries", "backoff_seconds", "min_seconds"):
        if config[field] < 0:
            raise CollectError(f"config.{field} is {config[field]}, and must not be negative")
    try:
        config.search.format(term="term", results=1)
    except (LookupError, ValueError) as error:
        raise CollectError(f"config.search is {config.search!r}, and may contain only {{term}}, {{results}}") from error
    if config.cookies and not Path(config.cookies).is_file():
        raise CollectError(f"config.cookies: there is no file {config.cookies}")
    if not all(str(word).split() for word in config.reject_words):
        raise CollectError("config.reject_words contains an empty word: remove it")
    if not re.fullmatch(r"[A-Za-z0-9-]{0,32}", config.subtitles):
        raise CollectError(f"config.subtitles is {config.subtitles!r}, and must be a language, such as 'en', or empty")
    if find_spec("yt_dlp") is None:
        raise CollectError('yt-dlp is missing: pip install -c constraints.txt -e ".[web]"')


def _rules(config: ConfigDict) -> RejectRules:
    return RejectRules(tuple(config.reject_words), config.min_seconds, config.max_seconds, config.max_age_limit)


def _request_policy(config: ConfigDict) -> ytdlp.RequestPolicy:
    cookies = Path(config.cookies).read_text() if config.cookies else ""
    bytes_per_second = config.bytes_per_second / config.workers
    return ytdlp.RequestPolicy(config.pause_seconds, bytes_per_second, config.retries, config.backoff_seconds, cookies)


def _read_archive(archive: Journal) -> dict[str, ArchiveRecord]:
    """Returns the last record of every video, by id.

    Raises:
        JournalError: a line is not a record, or its file is outside of the folder.
    """
    records = {}
    names = {field.name for field in fields(ArchiveRecord)}
    for number, line in enumerate(archive.lines, 1):
        if set(line) != names or not _has_valid_id(line):
            raise JournalError(f"{archive.path}, line {number}: not a record of a video. Remove this line")
        if line["state"] == "taken" and not (isinstance(line["file"], str) and is_inside(line["file"])):
            raise JournalError(f"{archive.path}, line {number}: file is {line['file']!r}. Remove this line")
        records[line["id"]] = ArchiveRecord(**_sanitized(line))
    return records


def _has_valid_id(fields: Mapping[str, Any]) -> bool:
    """True if id and URL have the form that is written here: the id is the name of a folder, which is removed."""
    id, url = fields["id"], fields["url"]
    return isinstance(id, str) and bool(SAFE_NAME.fullmatch(id)) and isinstance(url, str)


def _sanitized(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Bounds the length of text fields and removes characters that tables cannot store, such as lone surrogates."""
    return {name: sanitize(value, MAX_URL) if isinstance(value, str) else value for name, value in fields.items()}


def _finish_moves(out: Path, records: Iterable[ArchiveRecord]) -> None:
    """Moves complete files of a killed run to their final names, and removes its incomplete downloads."""
    for record in records:
        if record.state == "taken":
            _move(out, record)
    shutil.rmtree(out / "partial", ignore_errors=True)


def _move(out: Path, record: ArchiveRecord) -> None:
    """Renames a complete download to its final name, and removes its folder."""
    complete = out / "partial" / record.id / ytdlp.COMPLETE_FILE
    if record.file and complete.exists():
        file = out / record.file
        file.parent.mkdir(exist_ok=True)
        if (subtitles := complete.with_name(ytdlp.SUBTITLES_FILE)).exists():
            publish(subtitles, file.with_suffix(".vtt"))
        publish(complete, file)
    shutil.rmtree(complete.parent, ignore_errors=True)


def _search(config: ConfigDict, searches: Journal) -> tuple[list[tuple[str, VideoEntry]], str]:
    """Runs the searches that are not in the journal yet.

    Returns:
        Pairs of search term and video, of earlier searches too; a video found by several has the term of the first one.
        And an error message if no search of this run was answered, else "".

    Raises:
        CollectError: `max_failures` searches failed in a row.
    """
    queries = {config.search.format(term=term, results=config.max_results): term for term in config.terms}
    queries |= {url: url for url in config.urls}
    done = _read_searches(searches, config.max_results)
    todo = [query for query in queries if config.search_again or query not in done]
    tasks = [(query, config.max_results, config.height, _request_policy(config)) for query in todo]
    failures, unanswered, reason = _ConsecutiveFailures(config.max_failures), 0, ""
    with progress_bar(len(todo), desc="searching", unit="search", disable=not todo) as bar:
        for number, result in sandbox.run_tasks(ytdlp.search, tasks, 1, SEARCH_TIMEOUT, ytdlp.PRELOAD_MODULES):
            if isinstance(result, sandbox.TaskFailed):
                unanswered, reason = unanswered + 1, printable(result.reason)
                bar.write(f"no answer to {todo[number]!r}: {reason}")
                failures.add(result.reason)
                continue
            failures.reset()
            searches.append({"query": todo[number], "results": config.max_results, "when": _now(), "entries": result})
            bar.update()
    done = _read_searches(searches, config.max_results)
    found: dict[str, tuple[str, VideoEntry]] = {}
    for query, term in queries.items():
        for entry in done.get(query, []):
            found.setdefault(entry.id, (term, entry))
    if not todo or unanswered < len(todo):
        return list(found.values()), ""
    return list(found.values()), f"none of {len(todo)} searches was answered, the last: {reason}. Try again later"


def _read_searches(searches: Journal, results: int) -> dict[str, list[VideoEntry]]:
    """Returns the videos of journaled searches for `results` results, by query; of a repeated search, the last ones."""
    found = {}
    for number, line in enumerate(searches.lines, 1):
        try:
            if line["results"] == results:
                found[line["query"]] = [_read_entry(fields) for fields in line["entries"]]
        except (LookupError, TypeError, ValueError) as error:
            raise CollectError(f"{searches.path}, line {number}: not a search. Remove this line") from error
    return found


def _read_entry(fields: Mapping[str, Any]) -> VideoEntry:
    if not _has_valid_id(fields):
        raise ValueError(f"id is {fields['id']!r}")
    return VideoEntry(**{**fields, "tags": tuple(fields["tags"])})


def _is_pending(record: ArchiveRecord | None, retry_failed: bool) -> bool:
    return record is None or (retry_failed and record.state == "failed")


def _record(term: str, entry: VideoEntry, **more: Any) -> ArchiveRecord:
    known = {"id": entry.id, "url": entry.page_url, "title": entry.title, "term": term, "duration": entry.duration}
    return ArchiveRecord(**_sanitized(known | more), when=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _ConsecutiveFailures:
    """Circuit breaker: ends the run after `limit` failures in a row, as the site blocks it or the network is down."""

    def __init__(self, limit: int):
        self._limit, self._count = limit, 0

    def add(self, reason: str) -> None:
        """Counts a failure. Raises `CollectError` at the limit."""
        self._count += 1
        if self._count >= self._limit:
            raise CollectError(
                f"stopped after {self._limit} failures in a row, the last: {reason}. Run the same command again later "
                "to resume; set --config.retry_failed to retry failed videos"
            )

    def reset(self) -> None:
        """Sets the count to 0, after a success."""
        self._count = 0


def _download(config: ConfigDict, out: Path, archive: Journal, todo: Sequence[tuple[str, VideoEntry]]) -> None:
    requirements = ytdlp.Requirements(_rules(config), config.height, config.max_bytes, config.subtitles)
    policy = _request_policy(config)
    tasks = [(entry, out / "partial" / entry.id, requirements, policy) for _, entry in todo]
    failures, seconds = _ConsecutiveFailures(config.max_failures), 0.0
    with progress_bar(len(todo), desc="collecting", unit="video", disable=not todo) as bar:
        for number, result in sandbox.run_tasks(
            ytdlp.fetch, tasks, config.workers, config.timeout_seconds, ytdlp.PRELOAD_MODULES
        ):
            record = _record_result(*todo[number], result)
            archive.append(asdict(record))
            _move(out, record)
            seconds += record.seconds or 0
            bar.set_postfix_str(f"{seconds / 3600:.1f} h", refresh=False)
            bar.update()
            failures.add(str(record.reason)) if record.state == "failed" else failures.reset()
    shutil.rmtree(out / "partial", ignore_errors=True)


def _record_result(term: str, entry: VideoEntry, result: Any) -> ArchiveRecord:
    if isinstance(result, sandbox.TaskFailed):
        return _record(term, entry, state="failed", reason=result.reason)
    if result["state"] == "taken":
        result = {**result, "file": f"videos/{entry.id}{result['suffix']}"}
        del result["suffix"]
    return _record(term, entry, **result)


def _write_tables(out: Path, records: Iterable[ArchiveRecord]) -> None:
    """Writes the archive as a table, and the manifest of the existing files, each with its full length."""
    rows = [asdict(record) for record in records]
    write_table(out / "archive.parquet", rows, ARCHIVE)
    existing = [row for row in rows if row["state"] == "taken" and (out / row["file"]).is_file()]
    segments = [row | {"video": row["file"], "start": 0.0, "end": row["seconds"]} for row in existing]
    write_table(out / "videos.parquet", segments, MANIFEST)


def _dry_run_summary(
    found: Sequence[Any], new: Sequence[Any], screened: Sequence[tuple[str, VideoEntry, str | None]]
) -> str:
    kept = [entry for _, entry, reason in screened if not reason]
    hours = sum(entry.duration or 0 for entry in kept) / 3600
    unknown = sum(entry.duration is None for entry in kept)
    lines = [f"found {len(found):,} videos, {len(found) - len(new):,} of them already in the archive"]
    lines.append(f"  would download {len(kept):,}: {hours:,.1f} hours, and {unknown:,} videos of unknown duration")
    return "\n".join(lines + _rejection_counts(reason for *_, reason in screened if reason))


def _summary(out: Path, records: Collection[ArchiveRecord]) -> str:
    states = Counter(record.state for record in records)
    taken = [record for record in records if record.state == "taken"]
    hours, size = (sum(getattr(record, field) or 0 for record in taken) for field in ("seconds", "bytes"))
    lines = [f"videos {out}: {len(taken):,} taken, {hours / 3600:,.2f} hours, {size / 1e9:,.2f} GB"]
    lines.append("  " + ", ".join(f"{states[state]:,} {state}" for state in ("rejected", "failed", "gone")))
    return "\n".join(lines + _rejection_counts(record.reason for record in records if record.state == "rejected"))


def _rejection_counts(reasons: Iterable[str | None]) -> list[str]:
    return [f"  rejected, {reason}: {count:,}" for reason, count in Counter(reasons).most_common(20)]
