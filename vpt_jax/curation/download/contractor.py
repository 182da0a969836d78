"""Parallel, resumable download of OpenAI's contractor recordings: all pairs of an index into RECORDINGS/train.

    RECORDINGS/train/8.0_NAME.mp4, 8.0_NAME.jsonl        a pair; it appears when both files are complete and checked
    RECORDINGS/train/.partial/                           partial downloads; removed when all pairs are complete
    RECORDINGS/download.json                             missing pairs and the reasons

After an interruption or a kill, the same command resumes: at the last received byte, if the server supports that.
"""

import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from vpt_jax.curation.download.contractor_index import MAX_INDEX_BYTES, Index, InvalidIndexError, Pair, parse_index
from vpt_jax.curation.download.contractor_report import PERMANENT_STATES, DownloadReport
from vpt_jax.curation.download.contractor_survey import survey
from vpt_jax.curation.download.http_client import HTTPClient, as_url, is_private_url
from vpt_jax.curation.download.integrity import jsonl_problem, mp4_problem
from vpt_jax.curation.download.transfer import Outcome, RateLimiter, Transfer, discard
from vpt_jax.recording import find_recordings
from vpt_jax.system.disk_errors import raise_disk_errors_as
from vpt_jax.system.errors import UserError
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.workers import locked, progress_bar

# By suffix of the two files of a pair, in the order of the download: the small one first.
INTEGRITY_CHECKS = {".jsonl": jsonl_problem, ".mp4": mp4_problem}
MAX_CONSECUTIVE_FAILURES = 20  # failed or broken pairs; then the server, or a proxy, is considered to be down
MEGABYTE = 10**6


class ContractorError(UserError):
    """The download is not possible as configured, or not now; the message names the remedy."""


def download(config: ConfigDict) -> Path:
    """Downloads the pairs of `config.contractor.index` that are missing in `config.recordings`; returns that folder.

    With `config.contractor.dry_run` it only prints the estimated size (fields: configs/prepare.py).

    Raises:
        ContractorError: settings or index are invalid; or some pairs failed, and all others are complete.
        FolderInUseError: another run downloads into that folder.
    """
    refuse_remote_paths(config)
    settings, recordings = config.contractor, Path(config.recordings).resolve()
    _check(config)
    stop = threading.Event()
    counter = _ByteCounter()
    rate_limiter = RateLimiter(settings.megabytes_per_second * MEGABYTE)
    max_bytes = int(settings.max_megabytes * MEGABYTE)
    # An intranet's index may refer to its own machines.
    private = settings.allow_private_networks or is_private_url(settings.index)
    http_client = HTTPClient(settings.timeout_seconds, stop, private)
    transfer = Transfer(http_client, rate_limiter, stop, settings.retries, max_bytes, counter.add)
    index = _fetch_index(as_url(settings.index), transfer)
    pairs = index.pairs[: settings.max_pairs or None]
    print(f"{settings.index}: {len(index.pairs):,} pairs, {index.refused_count:,} entries refused", flush=True)
    if settings.dry_run:
        print(survey(pairs, transfer, settings.connections))
        return recordings
    with raise_disk_errors_as(recordings, ContractorError), locked(recordings):
        _PairDownloader(recordings, transfer, counter, settings.connections).run(
            settings.index, index, pairs, settings.retry_missing
        )
    return recordings


def _check(config: ConfigDict) -> None:
    settings = config.contractor
    if not settings.index:
        raise ContractorError("set the index: --config.contractor.index=URL; configs/prepare.py lists OpenAI's")
    if not settings.dry_run and not (config.recordings and config.out):
        raise ContractorError("set the folders of recordings and dataset: --config.recordings=A --config.out=B")
    folder = Path(config.recordings)
    if not settings.dry_run and folder.exists() and (not folder.is_dir() or find_recordings(folder)):
        raise ContractorError(
            f"{folder} is not a folder, or has recordings outside of train, valid and test: choose another folder"
        )
    for field, least in {"connections": 1, "timeout_seconds": 1, "max_megabytes": 1, "retries": 0, "max_pairs": 0,
                         "megabytes_per_second": 0}.items():  # fmt: skip
        if not (value := settings[field]) >= least:
            raise ContractorError(f"config.contractor.{field} is {value}, and must be {least} or more")


def _fetch_index(url: str, transfer: Transfer) -> Index:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.json"
        outcome = replace(transfer, max_bytes=MAX_INDEX_BYTES).fetch(url, path, lambda path: "")
        if outcome.state != "complete":
            raise ContractorError(f"cannot download the index {url}: {outcome.state}: {outcome.why}")
        try:
            return parse_index(path, url)
        except InvalidIndexError as error:
            raise ContractorError(str(error)) from error


class _ByteCounter:
    """Thread-safe count of the bytes received since the last `take`."""

    def __init__(self):
        self._count, self._lock = 0, threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._count += count

    def take(self) -> int:
        """Returns the count and resets it to 0."""
        with self._lock:
            count, self._count = self._count, 0
        return count


class _PairOutcome(NamedTuple):
    """Result of the download of a pair."""

    pair: Pair
    url: str  # of the missing file
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.pair.relpath} ({self.outcome.why})"


class _PairDownloader:
    """Downloads pairs into a folder that the caller has locked."""

    def __init__(self, recordings: Path, transfer: Transfer, counter: _ByteCounter, connections: int):
        self._recordings, self._folder = recordings, recordings / "train"
        self._partial_folder = self._folder / ".partial"
        self._transfer, self._counter, self._connections = transfer, counter, connections
        self._partial_folder.mkdir(parents=True, exist_ok=True)
        try:
            self._report = DownloadReport(recordings / "download.json", self._partial_folder / "missing.log")
        except ValueError as error:
            raise ContractorError(str(error)) from error

    def run(self, index_url: str, index: Index, pairs: Sequence[Pair], retry_missing: bool) -> None:
        """Downloads the missing pairs; writes the report in any case."""
        for pair in pairs:
            if self._is_complete(pair):
                self._report.remove(pair)
        todo = [p for p in pairs if not self._is_complete(p) and (retry_missing or not self._report.is_permanent(p))]
        if len(todo) < len(pairs):
            print(
                f"{len(pairs) - len(todo):,} of {len(pairs):,} pairs are complete, or known to be missing", flush=True
            )
        try:
            failed = self._fetch_all(todo)
        finally:
            self._report.write(index_url, index, sum(map(self._is_complete, pairs)))
        print(self._summary(pairs), flush=True)
        if failed:
            raise ContractorError(
                f"{len(failed):,} of {len(pairs):,} pairs failed, such as {failed[0]}; {self._advice}"
            )
        for pair in pairs:
            self._remove_partial_files(pair)
        with suppress(OSError):  # not empty: it may hold partial downloads of another index
            self._partial_folder.rmdir()

    @property
    def _advice(self) -> str:
        report = self._recordings / "download.json"
        return f"completed pairs are kept: run the same command again to resume. {report} lists all missing pairs"

    def _file(self, pair: Pair, suffix: str) -> Path:
        """Final path of a file of a pair."""
        return self._folder / f"{pair.name}{suffix}"

    def _checked_file(self, pair: Pair, suffix: str) -> Path:
        """Path of a complete and checked file whose pair is not complete yet."""
        return self._partial_folder / f"{pair.name}{suffix}"

    def _is_complete(self, pair: Pair) -> bool:
        return all(self._file(pair, suffix).exists() for suffix in INTEGRITY_CHECKS)

    def _fetch_all(self, todo: Sequence[Pair]) -> list[str]:
        """Downloads pairs in parallel; returns the failed ones with the reasons.

        Raises:
            ContractorError: `MAX_CONSECUTIVE_FAILURES` pairs failed in a row.
        """
        failed: list[str] = []
        broken: list[_PairOutcome] = []
        consecutive_failures = sizes = 0
        bar = progress_bar(0, desc="fetching", unit="B", unit_scale=True)
        results = self._fetch_parallel(todo, lambda: bar.update(self._counter.take()))
        with bar, closing(results):  # closing it also ends the threads
            for number, result in enumerate(results, 1):
                sizes += sum(self._size(result.pair, suffix) for suffix in INTEGRITY_CHECKS)
                if newly_broken := self._is_newly_broken(result):
                    broken.append(result)
                if is_failed := result.outcome.state == "failed":
                    failed.append(str(result))
                consecutive_failures = consecutive_failures + 1 if newly_broken or is_failed else 0
                self._report_missing(result)
                if consecutive_failures >= MAX_CONSECUTIVE_FAILURES:
                    self._mark_failed(broken)
                    raise ContractorError(
                        f"{consecutive_failures} pairs in a row failed, the last {result}; {self._advice}"
                    )
                bar.total = max(bar.n, sizes * len(todo) // number)  # an estimate
                bar.set_postfix_str(f"{number:,}/{len(todo):,} pairs", refresh=False)
        return failed

    def _is_newly_broken(self, result: _PairOutcome) -> bool:
        """True if a pair is broken and was not known to be: a server may return a log-in page in place of all files."""
        return result.outcome.state == "broken" and not self._report.is_permanent(result.pair)

    def _report_missing(self, result: _PairOutcome) -> None:
        if result.outcome.state != "complete":
            self._report.add(*result)

    def _mark_failed(self, broken: Sequence[_PairOutcome]) -> None:
        """Reports broken pairs as failed, so that the next run retries them: the server was down."""
        for result in broken:
            self._report_missing(result._replace(outcome=result.outcome._replace(state="failed")))

    def _size(self, pair: Pair, suffix: str) -> int:
        path = self._file(pair, suffix)
        return path.stat().st_size if path.exists() else 0

    def _fetch_parallel(self, todo: Sequence[Pair], on_poll: Callable[[], object]) -> Generator[_PairOutcome]:
        """Yields results in order of completion; closing the generator cancels the pairs that have not started."""
        queue, running = iter(todo), set[Future[_PairOutcome]]()
        with ThreadPoolExecutor(self._connections) as pool:
            try:
                while True:
                    for pair in islice(queue, 2 * self._connections - len(running)):
                        running.add(pool.submit(self._fetch_pair, pair))
                    if not running:
                        return
                    done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    on_poll()
                    for future in done:
                        running.remove(future)
                        yield future.result()
            finally:
                self._transfer.stop.set()  # aborts the transfers in progress
                pool.shutdown(wait=False, cancel_futures=True)

    def _fetch_pair(self, pair: Pair) -> _PairOutcome:
        """Downloads the missing files of a pair, then renames both, the .jsonl last."""
        for suffix, integrity_check in INTEGRITY_CHECKS.items():
            checked = self._checked_file(pair, suffix)
            if checked.exists() or self._file(pair, suffix).exists():
                continue
            outcome = self._transfer.fetch(pair.url(suffix), checked, integrity_check)
            if outcome.state != "complete":
                if outcome.state in PERMANENT_STATES:
                    self._remove_partial_files(pair)
                return _PairOutcome(pair, pair.url(suffix), outcome)
        for suffix in reversed(INTEGRITY_CHECKS):
            if (checked := self._checked_file(pair, suffix)).exists():
                checked.rename(self._file(pair, suffix))
        self._remove_partial_files(pair)
        self._report.remove(pair)
        return _PairOutcome(pair, "", Outcome("complete"))

    def _remove_partial_files(self, pair: Pair) -> None:
        """Removes the partial files of a pair that is complete or permanently unavailable."""
        for suffix in INTEGRITY_CHECKS:
            discard(self._checked_file(pair, suffix))
            self._checked_file(pair, suffix).unlink(missing_ok=True)

    def _summary(self, pairs: Sequence[Pair]) -> str:
        complete = sum(map(self._is_complete, pairs))
        missing = self._report.missing
        states = Counter(missing[pair.name]["state"] for pair in pairs if pair.name in missing)
        counts = "".join(f", {count:,} {state}" for state, count in states.most_common())
        if any(states[state] for state in PERMANENT_STATES):
            counts += "; set --config.contractor.retry_missing to retry them"
        return f"{complete:,} of {len(pairs):,} pairs are in {self._folder}{counts}"
