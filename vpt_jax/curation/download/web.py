"""Videos from the web: search, rule out by metadata, download; what was found is kept in a journal (paper App. A.1).

    OUT/searches.jsonl      what each search found: no search is made twice
    OUT/archive.jsonl       a line per video; of one that failed and was tried again, the last holds
    OUT/archive.parquet     the same as a table, a row per video
    OUT/videos.parquet      the videos that are there: a manifest (vpt_jax/data/manifest.py)
    OUT/videos/ID.SUFFIX    the videos
    OUT/partial/            downloads that are not whole

A video's line is written before its file gets its name, so what has a line is never downloaded again. What was on its
way when a run was killed is, and what was whole and had no line yet.
"""

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
from vpt_jax.curation.download.metadata import ADDRESS, NAME, Entry, Rules, clean, reject
from vpt_jax.data.manifest import is_inside, write_table
from vpt_jax.system.atomic_files import publish
from vpt_jax.system.disk_errors import explained
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.printable import printable
from vpt_jax.system.workers import locked, progress_bar

SEARCH_SECONDS = 3600  # that one search may take


class CollectError(Exception):
    """Videos cannot be collected as asked; the message says what to do."""


@dataclass(frozen=True)
class Record:
    """What became of a video: a line of the archive."""

    id: str  # of site and video; names the file
    url: str
    title: str
    term: str  # the search, or the address of config.urls, that found it first
    duration: float | None  # seconds, as the site tells
    state: str  # "taken", "rejected", "failed": may be tried again, "gone": is not there any more
    reason: str | None = None  # why it was not taken
    file: str | None = None  # path in the folder
    bytes: int | None = None
    sha256: str | None = None
    width: int | None = None  # pixels; this and the next three as the file tells
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
    """Searches, and downloads to `config.out` what it lacks; returns that folder (fields: configs/web.py).

    Raises `CollectError`, also where sites fail many times in a row or no search is answered, and `FolderInUseError`
    while another run works there. What is done by then is kept.
    """
    refuse_remote_paths(config)
    _check(config)
    out, rules = Path(config.out).resolve(), _rules(config)
    with explained(out, CollectError), locked(out):
        try:
            archive, searches = Journal(out / "archive.jsonl"), Journal(out / "searches.jsonl")
            known = _read_archive(archive)
        except JournalError as error:
            raise CollectError(str(error)) from error
        _finish_moves(out, known.values())
        found, unanswered = _search(config, searches)
        new = [(term, entry) for term, entry in found if _is_to_do(known.get(entry.id), config.retry_failed)]
        judged = [(term, entry, reject(entry, rules)) for term, entry in new]
        if config.dry_run:
            print(_forecast(found, new, judged))
            if unanswered:
                raise CollectError(unanswered)
            return out
        archive.append(*(asdict(_record(t, e, state="rejected", reason=why)) for t, e, why in judged if why))
        try:
            _download(config, out, archive, [(term, entry) for term, entry, why in judged if not why])
        finally:
            records = _read_archive(archive)
            _write_tables(out, records.values())
        print(_summary(out, records.values()))
    if unanswered:
        raise CollectError(unanswered)
    return out


def _check(config: ConfigDict) -> None:
    if not config.out:
        raise CollectError("say where videos go: --config.out=FOLDER")
    if not (config.terms or config.urls):
        raise CollectError("there is nothing to search: set config.terms or config.urls")
    for field in ("results", "height", "max_bytes", "workers", "timeout", "max_failures"):
        if config[field] < 1:
            raise CollectError(f"config.{field} is {config[field]}, and must be 1 or more")
    for field in ("pause", "rate", "retries", "backoff", "min_seconds"):
        if config[field] < 0:
            raise CollectError(f"config.{field} is {config[field]}, and must not be negative")
    try:
        config.search.format(term="term", results=1)
    except (LookupError, ValueError) as error:
        raise CollectError(f"config.search is {config.search!r}, and may hold {{term}} and {{results}} only") from error
    if config.cookies and not Path(config.cookies).is_file():
        raise CollectError(f"config.cookies: there is no file {config.cookies}")
    if not all(str(word).split() for word in config.reject_words):
        raise CollectError("config.reject_words has an empty word: remove it")
    if find_spec("yt_dlp") is None:
        raise CollectError('yt-dlp is missing: pip install -c constraints.txt -e ".[web]"')


def _rules(config: ConfigDict) -> Rules:
    return Rules(tuple(config.reject_words), config.min_seconds, config.max_seconds, config.age_limit)


def _manners(config: ConfigDict) -> ytdlp.Manners:
    cookies = Path(config.cookies).read_text() if config.cookies else ""
    return ytdlp.Manners(config.pause, config.rate / config.workers, config.retries, config.backoff, cookies)


def _read_archive(archive: Journal) -> dict[str, Record]:
    """The last record of every video, by id.

    Raises:
        JournalError: a line is none, or names a file outside of the folder.
    """
    records = {}
    names = {field.name for field in fields(Record)}
    for number, line in enumerate(archive.lines, 1):
        if set(line) != names or not _is_named(line):
            raise JournalError(f"{archive.path}, line {number}: no record of a video. Remove this line")
        if line["state"] == "taken" and not (isinstance(line["file"], str) and is_inside(line["file"])):
            raise JournalError(f"{archive.path}, line {number}: file is {line['file']!r}. Remove this line")
        records[line["id"]] = Record(**_printable(line))
    return records


def _is_named(fields: Mapping[str, Any]) -> bool:
    """Whether id and address are such as we write; the id names a folder, which is removed."""
    id, url = fields["id"], fields["url"]
    return isinstance(id, str) and bool(NAME.fullmatch(id)) and isinstance(url, str)


def _printable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without what no table can hold, such as half a character, and of bounded length."""
    return {name: clean(value, ADDRESS) if isinstance(value, str) else value for name, value in fields.items()}


def _finish_moves(out: Path, records: Iterable[Record]) -> None:
    """Names the files that a killed run did not come to name, and removes what it had not finished."""
    for record in records:
        if record.state == "taken":
            _move(out, record)
    shutil.rmtree(out / "partial", ignore_errors=True)


def _move(out: Path, record: Record) -> None:
    whole = out / "partial" / record.id / ytdlp.WHOLE
    if record.file and whole.exists():
        file = out / record.file
        file.parent.mkdir(exist_ok=True)
        publish(whole, file)
    shutil.rmtree(whole.parent, ignore_errors=True)


def _search(config: ConfigDict, searches: Journal) -> tuple[list[tuple[str, Entry]], str]:
    """What every search found, and what is asked for the first time; a video that many find is the first one's.

    With it comes a complaint if no search of this run was answered; else "".

    Raises:
        CollectError: so many searches failed in a row.
    """
    queries = {config.search.format(term=term, results=config.results): term for term in config.terms}
    queries |= {url: url for url in config.urls}
    done = _read_searches(searches, config.results)
    todo = [query for query in queries if config.search_again or query not in done]
    tasks = [(query, config.results, config.height, _manners(config)) for query in todo]
    failures, unanswered, reason = _Failures(config.max_failures), 0, ""
    with progress_bar(len(todo), desc="searching", unit="search", disable=not todo) as bar:
        for number, answer in sandbox.run(ytdlp.search, tasks, 1, SEARCH_SECONDS, ytdlp.LIBRARIES):
            if isinstance(answer, sandbox.Lost):
                unanswered, reason = unanswered + 1, printable(answer.reason)
                bar.write(f"no answer to {todo[number]!r}: {reason}")
                failures.count(answer.reason)
                continue
            failures.forget()
            searches.append({"query": todo[number], "results": config.results, "when": _now(), "entries": answer})
            bar.update()
    done = _read_searches(searches, config.results)
    found: dict[str, tuple[str, Entry]] = {}
    for query, term in queries.items():
        for entry in done.get(query, []):
            found.setdefault(entry.id, (term, entry))
    if not todo or unanswered < len(todo):
        return list(found.values()), ""
    return list(found.values()), f"none of {len(todo)} searches was answered, the last: {reason}. Try again later"


def _read_searches(searches: Journal, results: int) -> dict[str, list[Entry]]:
    """What was found by the searches for so many results, by query; of equal ones, the last."""
    found = {}
    for number, line in enumerate(searches.lines, 1):
        try:
            if line["results"] == results:
                found[line["query"]] = [_read_entry(fields) for fields in line["entries"]]
        except (LookupError, TypeError, ValueError) as error:
            raise CollectError(f"{searches.path}, line {number}: no search. Remove this line") from error
    return found


def _read_entry(fields: Mapping[str, Any]) -> Entry:
    if not _is_named(fields):
        raise ValueError(f"id is {fields['id']!r}")
    return Entry(**{**fields, "tags": tuple(fields["tags"])})


def _is_to_do(record: Record | None, retry_failed: bool) -> bool:
    return record is None or (retry_failed and record.state == "failed")


def _record(term: str, entry: Entry, **more: Any) -> Record:
    told = {"id": entry.id, "url": entry.address, "title": entry.title, "term": term, "duration": entry.duration}
    return Record(**_printable(told | more), when=_now())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Failures:
    """Ends the run at so many failures in a row: the site wants to be left alone, or the network is down."""

    def __init__(self, most: int):
        self._most, self._in_row = most, 0

    def count(self, reason: str) -> None:
        self._in_row += 1
        if self._in_row >= self._most:
            raise CollectError(
                f"stopped after {self._most} failures in a row, the last: {reason}. Go on later with the same command; "
                "--config.retry_failed asks again for what failed"
            )

    def forget(self) -> None:
        self._in_row = 0


def _download(config: ConfigDict, out: Path, archive: Journal, todo: Sequence[tuple[str, Entry]]) -> None:
    wanted, manners = ytdlp.Wanted(_rules(config), config.height, config.max_bytes), _manners(config)
    tasks = [(entry, out / "partial" / entry.id, wanted, manners) for _, entry in todo]
    failures, seconds = _Failures(config.max_failures), 0.0
    with progress_bar(len(todo), desc="collecting", unit="video", disable=not todo) as bar:
        for number, answer in sandbox.run(ytdlp.fetch, tasks, config.workers, config.timeout, ytdlp.LIBRARIES):
            record = _record_answer(*todo[number], answer)
            archive.append(asdict(record))
            _move(out, record)
            seconds += record.seconds or 0
            bar.set_postfix_str(f"{seconds / 3600:.1f} h", refresh=False)
            bar.update()
            failures.count(str(record.reason)) if record.state == "failed" else failures.forget()
    shutil.rmtree(out / "partial", ignore_errors=True)


def _record_answer(term: str, entry: Entry, answer: Any) -> Record:
    if isinstance(answer, sandbox.Lost):
        return _record(term, entry, state="failed", reason=answer.reason)
    if answer["state"] == "taken":
        answer = {**answer, "file": f"videos/{entry.id}{answer['suffix']}"}
        del answer["suffix"]
    return _record(term, entry, **answer)


def _write_tables(out: Path, records: Iterable[Record]) -> None:
    """All records; and, of those whose file is there, which seconds count: all."""
    rows = [asdict(record) for record in records]
    write_table(out / "archive.parquet", rows, ARCHIVE)
    there = [row for row in rows if row["state"] == "taken" and (out / row["file"]).is_file()]
    whole = [row | {"video": row["file"], "start": 0.0, "end": row["seconds"]} for row in there]
    write_table(out / "videos.parquet", whole, MANIFEST)


def _forecast(found: Sequence[Any], new: Sequence[Any], judged: Sequence[tuple[str, Entry, str | None]]) -> str:
    kept = [entry for _, entry, reason in judged if not reason]
    hours = sum(entry.duration or 0 for entry in kept) / 3600
    untold = sum(entry.duration is None for entry in kept)
    lines = [f"found {len(found):,} videos, {len(found) - len(new):,} of them seen before"]
    lines.append(f"  would ask for {len(kept):,}: {hours:,.1f} hours, and {untold:,} videos of untold length")
    return "\n".join(lines + _reasons(reason for *_, reason in judged if reason))


def _summary(out: Path, records: Collection[Record]) -> str:
    states = Counter(record.state for record in records)
    taken = [record for record in records if record.state == "taken"]
    hours, size = (sum(getattr(record, field) or 0 for record in taken) for field in ("seconds", "bytes"))
    lines = [f"videos {out}: {len(taken):,} taken, {hours / 3600:,.2f} hours, {size / 1e9:,.2f} GB"]
    lines.append("  " + ", ".join(f"{states[state]:,} {state}" for state in ("rejected", "failed", "gone")))
    return "\n".join(lines + _reasons(record.reason for record in records if record.state == "rejected"))


def _reasons(reasons: Iterable[str | None]) -> list[str]:
    return [f"  left out, {reason}: {count:,}" for reason, count in Counter(reasons).most_common(20)]
