"""OpenAI's contractor recordings: all pairs of an index fetched into RECORDINGS/train, side by side.

    RECORDINGS/train/8.0_NAME.mp4, 8.0_NAME.jsonl        a pair, which appears when both halves are here and checked
    RECORDINGS/train/.partial/                           halves on their way; gone when all is done
    RECORDINGS/download.json                             the pairs that are not here, and why

Killed or stopped, the same command goes on: at the byte it had come to, where the server can do that.
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

from vpt_jax.curation.download.contractor_index import MAX_BYTES, BrokenIndexError, Index, Pair, parse_index
from vpt_jax.curation.download.contractor_report import SETTLED, Report
from vpt_jax.curation.download.contractor_survey import survey
from vpt_jax.curation.download.http_client import Bodies, as_url, is_private_place
from vpt_jax.curation.download.integrity import jsonl_problem, mp4_problem
from vpt_jax.curation.download.transfer import Bandwidth, Outcome, Transfer, discard
from vpt_jax.recording import find_recordings
from vpt_jax.system.disk_errors import explained
from vpt_jax.system.paths import refuse_remote_paths
from vpt_jax.system.workers import locked, progress_bar

HALVES = {".jsonl": jsonl_problem, ".mp4": mp4_problem}  # in the order they are fetched: the small one first
FAILURES_IN_A_ROW = 20  # pairs that failed or came broken; then the server, or what is before it, is taken to be down
MEGABYTE = 10**6


class ContractorError(Exception):
    """A download that cannot be done as asked, or not now; the message says what to do."""


def download(config: ConfigDict) -> Path:
    """Fetches the pairs of `config.contractor.index` that are not yet in `config.recordings`, and returns that folder.

    With `config.contractor.dry_run` it only says how much there is (fields: configs/prepare.py).

    Raises:
        ContractorError: settings or index are wrong; or pairs failed, in which case all others are here.
        FolderInUseError: another run fetches into that folder.
    """
    refuse_remote_paths(config)
    wanted, recordings = config.contractor, Path(config.recordings).resolve()
    _check(config)
    stop = threading.Event()
    counter = _Counter()
    bandwidth = Bandwidth(wanted.megabytes_per_second * MEGABYTE)
    largest = int(wanted.largest_megabytes * MEGABYTE)
    private = wanted.private or is_private_place(wanted.index)  # an index of an intranet may name its machines
    transfer = Transfer(Bodies(wanted.timeout, stop, private), bandwidth, stop, wanted.retries, largest, counter.add)
    index = _fetch_index(as_url(wanted.index), transfer)
    pairs = index.pairs[: wanted.pairs or None]
    print(f"{wanted.index}: {len(index.pairs):,} pairs, {index.refused_count:,} entries refused", flush=True)
    if wanted.dry_run:
        print(survey(pairs, transfer, wanted.connections))
        return recordings
    with explained(recordings, ContractorError), locked(recordings):
        _Download(recordings, transfer, counter, wanted.connections).run(
            wanted.index, index, pairs, wanted.retry_missing
        )
    return recordings


def _check(config: ConfigDict) -> None:
    wanted = config.contractor
    if not wanted.index:
        raise ContractorError("say which recordings: --config.contractor.index=URL; configs/prepare.py lists OpenAI's")
    if not wanted.dry_run and not (config.recordings and config.out):
        raise ContractorError("say where recordings and dataset go: --config.recordings=A --config.out=B")
    folder = Path(config.recordings)
    if not wanted.dry_run and folder.exists() and (not folder.is_dir() or find_recordings(folder)):
        raise ContractorError(f"{folder} is no folder, or has recordings beside train, valid and test: choose another")
    for field, least in {"connections": 1, "timeout": 1, "largest_megabytes": 1, "retries": 0, "pairs": 0,
                         "megabytes_per_second": 0}.items():  # fmt: skip
        if not (value := wanted[field]) >= least:
            raise ContractorError(f"config.contractor.{field} is {value}, and must be {least} or more")


def _fetch_index(url: str, transfer: Transfer) -> Index:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.json"
        outcome = replace(transfer, largest=MAX_BYTES).fetch(url, path, lambda path: "")
        if outcome.state != "got":
            raise ContractorError(f"there is no index to be had at {url}: {outcome.state}: {outcome.why}")
        try:
            return parse_index(path, url)
        except BrokenIndexError as error:
            raise ContractorError(str(error)) from error


class _Counter:
    """Bytes that threads received since they were last asked for."""

    def __init__(self):
        self._count, self._lock = 0, threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._count += count

    def take(self) -> int:
        with self._lock:
            count, self._count = self._count, 0
        return count


class _Ending(NamedTuple):
    """How the transfer of a pair ended."""

    pair: Pair
    url: str  # of the half that is missing
    outcome: Outcome

    def __str__(self) -> str:
        return f"{self.pair.relpath} ({self.outcome.why})"


class _Download:
    """A run that fetches pairs into a folder which it has locked."""

    def __init__(self, recordings: Path, transfer: Transfer, counter: _Counter, connections: int):
        self._recordings, self._folder = recordings, recordings / "train"
        self._waiting = self._folder / ".partial"
        self._transfer, self._counter, self._connections = transfer, counter, connections
        self._waiting.mkdir(parents=True, exist_ok=True)
        try:
            self._report = Report(recordings / "download.json", self._waiting / "missing.log")
        except ValueError as error:
            raise ContractorError(str(error)) from error

    def run(self, place: str, index: Index, pairs: Sequence[Pair], retry_missing: bool) -> None:
        """Fetches what is missing and writes the report, however it ends."""
        for pair in pairs:
            if self._is_here(pair):
                self._report.forget(pair)
        todo = [p for p in pairs if not self._is_here(p) and (retry_missing or not self._report.is_settled(p))]
        if len(todo) < len(pairs):
            print(f"{len(pairs) - len(todo):,} of {len(pairs):,} pairs are here, or known to be missing", flush=True)
        try:
            failed = self._fetch_all(todo)
        finally:
            self._report.write(place, index, sum(map(self._is_here, pairs)))
        print(self._summary(pairs), flush=True)
        if failed:
            raise ContractorError(
                f"{len(failed):,} of {len(pairs):,} pairs failed, such as {failed[0]}; {self._advice}"
            )
        for pair in pairs:
            self._tidy(pair)
        with suppress(OSError):  # halves of another index may be in it
            self._waiting.rmdir()

    @property
    def _advice(self) -> str:
        return f"what is done is kept: run the same command again. {self._recordings / 'download.json'} lists all"

    def _file(self, pair: Pair, suffix: str) -> Path:
        return self._folder / f"{pair.name}{suffix}"

    def _half(self, pair: Pair, suffix: str) -> Path:
        """Where a half that is whole and checked waits for the other."""
        return self._waiting / f"{pair.name}{suffix}"

    def _is_here(self, pair: Pair) -> bool:
        return all(self._file(pair, suffix).exists() for suffix in HALVES)

    def _fetch_all(self, todo: Sequence[Pair]) -> list[str]:
        """Fetches pairs side by side; returns which failed and why. Raises `ContractorError` if the server is down."""
        failed: list[str] = []
        broken: list[_Ending] = []
        in_a_row = sizes = 0
        bar = progress_bar(0, desc="fetching", unit="B", unit_scale=True)
        outcomes = self._outcomes(todo, lambda: bar.update(self._counter.take()))
        with bar, closing(outcomes):  # when this ends, so have the threads
            for number, ending in enumerate(outcomes, 1):
                sizes += sum(self._size(ending.pair, suffix) for suffix in HALVES)
                if news := self._is_news(ending):
                    broken.append(ending)
                if fails := ending.outcome.state == "failed":
                    failed.append(str(ending))
                in_a_row = in_a_row + 1 if news or fails else 0
                self._note(ending)
                if in_a_row >= FAILURES_IN_A_ROW:
                    self._take_back(broken)
                    raise ContractorError(f"{in_a_row} pairs in a row failed, the last {ending}; {self._advice}")
                bar.total = max(bar.n, sizes * len(todo) // number)  # an estimate
                bar.set_postfix_str(f"{number:,}/{len(todo):,} pairs", refresh=False)
        return failed

    def _is_news(self, ending: "_Ending") -> bool:
        """Whether a pair came broken and was not known to be: a log-in page comes in place of any file."""
        return ending.outcome.state == "broken" and not self._report.is_settled(ending.pair)

    def _note(self, ending: "_Ending") -> None:
        if ending.outcome.state != "got":
            self._report.note(*ending)

    def _take_back(self, broken: Sequence["_Ending"]) -> None:
        """Notes that they failed: nothing that came in such a run is settled."""
        for ending in broken:
            self._note(ending._replace(outcome=ending.outcome._replace(state="failed")))

    def _size(self, pair: Pair, suffix: str) -> int:
        path = self._file(pair, suffix)
        return path.stat().st_size if path.exists() else 0

    def _outcomes(self, todo: Sequence[Pair], tick: Callable[[], object]) -> Generator["_Ending"]:
        """How each pair ended, as they end; what has not begun is dropped when the caller has enough."""
        queue, running = iter(todo), set[Future[_Ending]]()
        with ThreadPoolExecutor(self._connections) as pool:
            try:
                while True:
                    for pair in islice(queue, 2 * self._connections - len(running)):
                        running.add(pool.submit(self._fetch_pair, pair))
                    if not running:
                        return
                    done, _ = wait(running, timeout=0.5, return_when=FIRST_COMPLETED)
                    tick()
                    for future in done:
                        running.remove(future)
                        yield future.result()
            finally:
                self._transfer.stop.set()  # nobody waits for what is on its way
                pool.shutdown(wait=False, cancel_futures=True)

    def _fetch_pair(self, pair: Pair) -> "_Ending":
        """Fetches what is missing of a pair; both halves then get their names, the .jsonl last."""
        for suffix, problem_of in HALVES.items():
            half = self._half(pair, suffix)
            if half.exists() or self._file(pair, suffix).exists():
                continue
            outcome = self._transfer.fetch(pair.url(suffix), half, problem_of)
            if outcome.state != "got":
                if outcome.state in SETTLED:
                    self._tidy(pair)
                return _Ending(pair, pair.url(suffix), outcome)
        for suffix in reversed(HALVES):
            if (half := self._half(pair, suffix)).exists():
                half.rename(self._file(pair, suffix))
        self._tidy(pair)
        self._report.forget(pair)
        return _Ending(pair, "", Outcome("got"))

    def _tidy(self, pair: Pair) -> None:
        """Removes what is left of a pair that is here, or that cannot be had."""
        for suffix in HALVES:
            discard(self._half(pair, suffix))
            self._half(pair, suffix).unlink(missing_ok=True)

    def _summary(self, pairs: Sequence[Pair]) -> str:
        here = sum(map(self._is_here, pairs))
        notes = self._report.notes
        states = Counter(notes[pair.name]["state"] for pair in pairs if pair.name in notes)
        missing = "".join(f", {count:,} {state}" for state, count in states.most_common())
        if any(states[state] for state in SETTLED):
            missing += "; --config.contractor.retry_missing asks again"
        return f"{here:,} of {len(pairs):,} pairs are in {self._folder}{missing}"
