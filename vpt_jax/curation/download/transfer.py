"""One file from a URL to disk, whole or not at all: tried again, continued, checked, bounded in size and speed."""

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from vpt_jax.curation.download.http_client import Bodies, Body, FetchError, GoneError, PastEndError
from vpt_jax.system.atomic_files import publish

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before the second try, doubled before each further one

Result = TypeVar("Result")


class Outcome(NamedTuple):
    """How a transfer ended."""

    state: str  # "got", "gone", "broken" (what came is no such file), "too large", or "failed" (may work another time)
    why: str = ""


class StoppedError(Exception):
    """The run is to end; what came so far is kept."""


class Bandwidth:
    """A limit in bytes per second that threads share; 0: none."""

    def __init__(self, rate: float):
        self._rate, self._free, self._lock = rate, 0.0, threading.Lock()

    def take(self, count: int, stop: threading.Event) -> None:
        """Waits until so many bytes were due, or until `stop`."""
        if not self._rate:
            return
        with self._lock:
            now = time.monotonic()
            self._free = max(self._free, now) + count / self._rate
            pause = self._free - now
        stop.wait(pause)


@dataclass(frozen=True)
class Transfer:
    """Fetches files on these terms; safe to share between threads."""

    bodies: Bodies
    bandwidth: Bandwidth
    stop: threading.Event
    retries: int  # further tries after the first one
    largest: int  # bytes of a file
    received: Callable[[int], None] = lambda count: None  # told of all bytes that come

    def fetch(self, url: str, path: Path, problem_of: Callable[[Path], str]) -> Outcome:
        """Fetches a file, which appears under its name once it is whole and checked.

        What came of it lies in `NAME.partial` until then, what is known of it in `NAME.facts`. Whatever ends the
        transfer, the next one goes on from there if the file has not changed since; `discard` removes both.

        Args:
            problem_of: says what is wrong with a file, or "".

        Raises:
            StoppedError: the run is to end.
            OSError: the disk is full, or something like it.
        """
        partial = _Partial(path)
        try:
            outcome = self.retried(lambda: self._try(url, partial, problem_of))
        except FetchError as error:
            return Outcome("failed", str(error))
        except GoneError as error:
            return Outcome("gone", str(error))
        if outcome.state == "got":
            publish(partial.data, path)
        return outcome

    def retried(self, attempt: Callable[[], Result]) -> Result:
        """The result of the first try that ends without a `FetchError`, or the last such error."""
        for number in range(self.retries + 1):
            try:
                return attempt()
            except FetchError as error:
                if self.stop.is_set():
                    raise StoppedError from error
                if not error.again or number == self.retries:
                    raise
                pause = min(FIRST_PAUSE * 2**number, LONGEST_PAUSE) * random.uniform(0.5, 1)  # not all at once
                self.stop.wait(max(pause, error.pause))
        raise AssertionError  # the last try returns or raises

    def _try(self, url: str, partial: "_Partial", problem_of: Callable[[Path], str]) -> Outcome:
        there, facts = partial.load(url)
        if facts and there == facts.size and problem_of(partial.data):  # from another run: what came then may be amiss
            there, facts = 0, None
        if facts is None or there != facts.size:  # else it is here, and its check was not done
            try:
                with self.bodies.open(url, there, tag=facts.tag if facts else "") as body:
                    facts = self._receive(url, body, there, facts, partial)
            except PastEndError:
                partial.discard()
                raise
            except _TooLargeError as error:
                return Outcome("too large", str(error))
        if not (problem := problem_of(partial.data)):
            return Outcome("got")
        if facts.size is None:  # it may have been cut short on its way
            partial.discard()
            raise FetchError(f"{problem}; the server did not say how long the file is")
        return Outcome("broken", problem)

    def _receive(self, url: str, body: Body, there: int, known: "_Facts | None", partial: "_Partial") -> "_Facts":
        """Appends a body to what is there, if it is its continuation; else begins anew."""
        facts = _Facts(url, body.size, body.tag or (known.tag if known and body.start else ""))
        if body.start not in (0, there) or (body.start and facts != known):
            partial.discard()
            raise FetchError("the file has changed on the server")
        if body.size is not None and body.size > self.largest:
            raise _TooLargeError(f"{body.size:,} bytes; more than {self.largest:,} are not taken")
        if not body.start:
            partial.begin(facts)
        count = body.start
        with partial.data.open("ab", buffering=0) as file:  # what has come is kept, whenever the process is killed
            while data := body.read():
                count += len(data)
                if count > self.largest:
                    raise _TooLargeError(f"it goes on after {self.largest:,} bytes; more are not taken")
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
                self.received(len(data))
                self.bandwidth.take(len(data), self.stop)
                if self.stop.is_set():
                    raise StoppedError
        if body.size is not None and count != body.size:
            raise FetchError(f"{count:,} of {body.size:,} bytes came")
        return facts


def discard(path: Path) -> None:
    """Removes what `Transfer.fetch` may have left beside a file."""
    _Partial(path).discard()


class _TooLargeError(Exception):
    """A file is, or claims to be, larger than allowed."""


class _Facts(NamedTuple):
    """Which version of which file a partial one is of."""

    url: str
    size: int | None
    tag: str


class _Partial:
    """A file on its way."""

    def __init__(self, path: Path):
        self.data = path.with_name(f"{path.name}.partial")
        self._facts = path.with_name(f"{path.name}.facts")

    def load(self, url: str) -> tuple[int, _Facts | None]:
        """How many bytes are there, and of what; (0, None) unless a server can be asked for the rest of just that."""
        try:
            facts = _Facts(*json.loads(self._facts.read_text()))
            count = self.data.stat().st_size
        except (FileNotFoundError, ValueError, TypeError):
            return 0, None
        if facts.url != url or not facts.tag or count > (facts.size or count):
            return 0, None
        return count, facts

    def begin(self, facts: _Facts) -> None:
        self.discard()
        self._facts.write_text(json.dumps(facts))
        self.data.touch()

    def discard(self) -> None:
        self.data.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)
