"""Resumable download of a file: retry with exponential backoff, integrity check, size and rate limit, atomic rename."""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from vpt_jax.curation.download.http_client import Body, FetchError, GoneError, HTTPClient, RangeNotSatisfiableError
from vpt_jax.system.atomic_files import publish

INITIAL_BACKOFF, MAX_BACKOFF = 0.5, 60.0  # seconds before the first retry, doubled before each further one

Result = TypeVar("Result")


class Outcome(NamedTuple):
    """Result of a transfer. `state` and `why` are also keys of the report (contractor_report.py)."""

    state: str  # "complete", "gone", "broken" (failed the check), "too large", or "failed" (a later run may succeed)
    why: str = ""


class StoppedError(Exception):
    """The run was stopped; the bytes received so far are kept."""


class RateLimiter:
    """Bandwidth limit in bytes per second, shared by threads; 0: unlimited."""

    def __init__(self, bytes_per_second: float):
        self._bytes_per_second, self._free_time, self._lock = bytes_per_second, 0.0, threading.Lock()

    def acquire(self, count: int, stop: threading.Event) -> None:
        """Waits until `count` bytes are within the limit, or until `stop` is set."""
        if not self._bytes_per_second:
            return
        with self._lock:
            now = time.monotonic()
            self._free_time = max(self._free_time, now) + count / self._bytes_per_second
            pause = self._free_time - now
        stop.wait(pause)


@dataclass(frozen=True)
class Transfer:
    """Settings and shared state of downloads; thread-safe."""

    http_client: HTTPClient
    rate_limiter: RateLimiter
    stop: threading.Event
    retries: int  # after the first attempt
    max_bytes: int  # of a file
    on_received: Callable[[int], None] = lambda count: None  # called with the number of bytes of every chunk

    def fetch(self, url: str, path: Path, integrity_check: Callable[[Path], str]) -> Outcome:
        """Downloads a file and renames it to `path` atomically once it is complete and checked.

        Until then the received bytes are in `NAME.partial`, and the version of the remote file in `NAME.facts`. After
        any interruption the next transfer resumes there, unless the file has changed since; `discard` removes both.

        Args:
            integrity_check: returns the problem of a file, or "".

        Raises:
            StoppedError: the run was stopped.
            OSError: the disk is full, or a similar error.
        """
        partial = _PartialFile(path)
        try:
            outcome = self.with_retries(lambda: self._attempt(url, partial, integrity_check))
        except FetchError as error:
            return Outcome("failed", str(error))
        except GoneError as error:
            return Outcome("gone", str(error))
        if outcome.state == "complete":
            publish(partial.data, path)
        return outcome

    def with_retries(self, attempt: Callable[[], Result]) -> Result:
        """Retries `attempt` with exponential backoff and jitter; raises the `FetchError` of the last attempt."""
        for number in range(self.retries + 1):
            try:
                return attempt()
            except FetchError as error:
                if self.stop.is_set():
                    raise StoppedError from error
                if not error.retryable or number == self.retries:
                    raise
                backoff = min(INITIAL_BACKOFF * 2**number, MAX_BACKOFF)
                jittered = backoff * random.uniform(0.5, 1)  # so that connections do not retry simultaneously
                self.stop.wait(max(jittered, error.retry_after))
        raise AssertionError  # the last attempt returns or raises

    def _attempt(self, url: str, partial: "_PartialFile", integrity_check: Callable[[Path], str]) -> Outcome:
        offset, version = partial.load(url)
        if version and offset == version.size and integrity_check(partial.data):  # an earlier run received broken data
            offset, version = 0, None
        if version is None or offset != version.size:  # else it is complete, and only its check was interrupted
            try:
                with self.http_client.open(url, offset, validator=version.validator if version else "") as body:
                    version = self._receive(url, body, offset, version, partial)
            except RangeNotSatisfiableError:
                partial.discard()
                raise
            except _TooLargeError as error:
                return Outcome("too large", str(error))
        if not (problem := integrity_check(partial.data)):
            return Outcome("complete")
        if version.size is None:  # it may have been truncated in transit
            partial.discard()
            raise FetchError(f"{problem}; the server did not state the size of the file")
        return Outcome("broken", problem)

    def _receive(
        self, url: str, body: Body, offset: int, known: "_RemoteVersion | None", partial: "_PartialFile"
    ) -> "_RemoteVersion":
        """Appends a body to the partial file if it starts at `offset`; starts over if it starts at byte 0."""
        version = _RemoteVersion(url, body.size, body.validator or (known.validator if known and body.start else ""))
        if body.start not in (0, offset) or (body.start and version != known):
            partial.discard()
            raise FetchError("the file has changed on the server")
        if body.size is not None and body.size > self.max_bytes:
            raise _TooLargeError(f"{body.size:,} bytes; the limit is {self.max_bytes:,}")
        if not body.start:
            partial.start(version)
        count = body.start
        with partial.data.open("ab", buffering=0) as file:  # unbuffered: a kill loses no received bytes
            while data := body.read():
                count += len(data)
                if count > self.max_bytes:
                    raise _TooLargeError(f"it continues after {self.max_bytes:,} bytes, which is the limit")
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                self.on_received(len(data))
                self.rate_limiter.acquire(len(data), self.stop)
                if self.stop.is_set():
                    raise StoppedError
        if body.size is not None and count != body.size:
            raise FetchError(f"received {count:,} of {body.size:,} bytes")
        return version


def discard(path: Path) -> None:
    """Removes the partial files of `Transfer.fetch` next to `path`."""
    _PartialFile(path).discard()


class _TooLargeError(Exception):
    """The file is larger than allowed, or states a larger size."""


class _RemoteVersion(NamedTuple):
    """Identity of a remote file: its URL, size in bytes (None: not stated) and ETag or Last-Modified ("": none)."""

    url: str
    size: int | None
    validator: str


class _PartialFile:
    """A partial download: its bytes in `NAME.partial`, its version as a JSON list in `NAME.facts`."""

    def __init__(self, path: Path):
        self.data = path.with_name(f"{path.name}.partial")
        self._version_file = path.with_name(f"{path.name}.facts")

    def load(self, url: str) -> tuple[int, _RemoteVersion | None]:
        """Returns the number of received bytes and their version; (0, None) if the download cannot be resumed."""
        try:
            version = _RemoteVersion(*json.loads(self._version_file.read_text()))
            count = self.data.stat().st_size
        except (FileNotFoundError, ValueError, TypeError):
            return 0, None
        if version.url != url or not version.validator or count > (version.size or count):
            return 0, None
        return count, version

    def start(self, version: _RemoteVersion) -> None:
        """Replaces the partial download by an empty one of this version."""
        self.discard()
        self._version_file.write_text(json.dumps(version))
        self.data.touch()

    def discard(self) -> None:
        """Removes both files."""
        self.data.unlink(missing_ok=True)
        self._version_file.unlink(missing_ok=True)
