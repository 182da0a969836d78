"""HTTP client for large files: range requests, stall detection, redirects, SSRF protection; also reads file:// URLs."""

import ipaddress
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http.client import HTTPException
from pathlib import Path
from socket import SHUT_RDWR, SOCK_STREAM, getaddrinfo, socket
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from vpt_jax.system.printable import printable

READ_BYTES = 2**16  # upper bound of a single read
MIN_BYTES_PER_SECOND = 1024  # on average over the timeout; slower connections are closed
MAX_REDIRECTS = 5
MAX_RETRY_AFTER = 60  # seconds; upper bound on the server's "Retry-After"
_SCHEMES = ("http://", "https://")
_NETWORK_ERRORS = (OSError, HTTPError, HTTPException, ValueError)  # exceptions of requests are subclasses of these


class GoneError(Exception):
    """The file does not exist (HTTP 404 or 410); a retry is pointless."""


class FetchError(Exception):
    """A file could not be read.

    Attributes:
        retryable: a retry may succeed.
        retry_after: seconds to wait before it.
    """

    def __init__(self, message: str, retryable: bool = True, retry_after: float = 0.0):
        super().__init__(message)
        self.retryable, self.retry_after = retryable, retry_after


class RangeNotSatisfiableError(FetchError):
    """The file ends before the requested offset (HTTP 416)."""


class Body(NamedTuple):
    """Body of a response, or an opened local file, as a stream."""

    start: int  # offset in the file of the first byte that `read` returns: the requested one, or 0
    size: int | None  # bytes of the complete file; None if the server does not state it
    validator: str  # ETag or Last-Modified: differs between versions of the file; "" if the server sends none
    read: Callable[[], bytes]  # returns up to `READ_BYTES` available bytes; b"" at the end, also at a premature one


def as_url(location: str) -> str:
    """Converts the path of a local file into a file:// URL; returns URLs unchanged."""
    return location if location.startswith((*_SCHEMES, "file:")) else Path(location).resolve().as_uri()


class HTTPClient:
    """Opens files by URL; thread-safe.

    Args:
        timeout: seconds for connecting, for waiting for a byte, and over which `MIN_BYTES_PER_SECOND` must be reached.
        stop: event that aborts all reads with a `FetchError` once it is set.
        private: also allow addresses outside of the public internet: this machine, private networks and cloud metadata
            services. If false, an untrusted index or redirect cannot reach services that trust internal clients
            (server-side request forgery). The check applies to the connected IP address, whatever its name; behind a
            proxy, the proxy's address is not checked, and the proxy must refuse such targets.
    """

    def __init__(self, timeout: float, stop: threading.Event, private: bool = False):
        self._timeout, self._stop, self._local, self._private = timeout, stop, threading.local(), private

    @contextmanager
    def open(self, url: str, start: int = 0, stop: int | None = None, validator: str = "") -> Iterator[Body]:
        """Opens the bytes `start` to `stop` of a file, or more if the server does not support range requests.

        Args:
            validator: of the expected version (If-Range); if the file has changed, the body starts at byte 0.

        Raises:
            GoneError, FetchError: here, or while the body is read.
        """
        if url.startswith("file:"):
            with _open_local(url, start, validator) as body:
                yield body
            return
        byte_range = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop else {}
        condition = {"If-Range": validator} if validator and start else {}
        watchdog = _Watchdog(self._timeout, self._stop, self._private)
        try:
            response = self._get(url, byte_range | condition, watchdog)
            try:
                yield _body(response, watchdog)
            finally:
                response.close()
        finally:
            watchdog.done.set()

    def read_range(self, url: str, start: int, length: int) -> tuple[bytes, int | None]:
        """Returns `length` bytes from offset `start`, fewer at the end of the file, and the size of the complete file.

        Raises as `open`; also if the server does not support range requests.
        """
        with self.open(url, start, start + length) as body:
            if body.start != start:
                raise FetchError("the server does not support range requests", retryable=False)
            data = bytearray()
            while len(data) < length and (chunk := body.read()):
                data += chunk
        return bytes(data[:length]), body.size

    def _get(self, url: str, headers: dict[str, str], watchdog: "_Watchdog") -> requests.Response:
        """Sends a GET request and follows redirects without reading their bodies, which may be endless."""
        for _ in range(MAX_REDIRECTS + 1):
            with watchdog.waiting():
                response = self._session.get(
                    url, headers=headers, stream=True, allow_redirects=False, timeout=self._timeout
                )
            if not response.is_redirect:
                return response
            response.close()
            with watchdog.waiting():  # the location may be malformed
                url = urljoin(url, response.headers["location"])
            if not url.startswith(_SCHEMES):
                raise FetchError(
                    f"redirected to {printable(url, length=200)}, which is not an http(s) URL", retryable=False
                )
        raise FetchError(f"redirected more than {MAX_REDIRECTS} times", retryable=False)

    @property
    def _session(self) -> requests.Session:
        """The session of this thread; it keeps connections alive between files."""
        if not hasattr(self._local, "session"):
            session = _Session()
            session.headers["Accept-Encoding"] = "identity"  # so that sizes and ranges refer to the file's own bytes
            for scheme in _SCHEMES:
                session.mount(scheme, _Adapter())
            self._local.session = session
        return self._local.session


def _body(response: requests.Response, watchdog: "_Watchdog") -> Body:
    _check_status(response)
    start, size = _content_range(response)

    def read() -> bytes:
        with watchdog.waiting():
            data = response.raw.read1(READ_BYTES, decode_content=False) or b""
        watchdog.received += len(data)
        return data

    etag = response.headers.get("etag", "")
    validator = response.headers.get("last-modified", "") if etag.startswith("W/") else etag
    return Body(start, size, validator or response.headers.get("last-modified", ""), read)


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    message = f"the server returned {status} {printable(response.reason or '', length=150)}".strip()
    if status in (404, 410):
        raise GoneError(message)
    if status == 416:
        raise RangeNotSatisfiableError(message)
    if status in (408, 425, 429) or status >= 500:
        raise FetchError(message, retry_after=_retry_after_seconds(response.headers.get("retry-after", "")))
    if status not in (200, 206):
        raise FetchError(message, retryable=False)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise FetchError("the server sends the file compressed, against the request's Accept-Encoding", retryable=False)


def _retry_after_seconds(header: str) -> float:
    """Seconds of a header that states seconds or a date; 0 if it is neither."""
    with suppress(HTTPError, ValueError, OverflowError):
        return min(Retry().parse_retry_after(header), MAX_RETRY_AFTER)
    return 0.0


def _content_range(response: requests.Response) -> tuple[int, int | None]:
    """Offset of the body in the file, and size of the complete file (None if not stated)."""
    if response.status_code == 206:
        parts = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("content-range", ""))
        if parts is None:
            raise FetchError("the server does not state which range of the file it sends")
        return int(parts[1]), None if parts[2] == "*" else int(parts[2])
    length = response.headers.get("content-length", "")
    is_stated = re.fullmatch(r"[0-9]{1,18}", length) and "transfer-encoding" not in response.headers
    return 0, int(length) if is_stated else None


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Returns None: else requests reads the body of a redirect into memory, even if it does not follow it."""


class _Watchdog:
    """Thread that shuts down a stalled connection: too few bytes, in headers or body, or the run is to stop.

    A socket's own timeout restarts at every byte, and so does not detect this. Only time spent waiting for the server
    counts.
    """

    def __init__(self, timeout: float, stop: threading.Event, private: bool):
        self.received, self.done, self.private = 0, threading.Event(), private
        self.socket: socket | None = None
        self._timeout, self._stop, self._reason = timeout, stop, ""
        self._waited, self._wait_start = 0.0, 0.0  # seconds of earlier waits; start of the current wait, 0 if none
        threading.Thread(target=self._run, daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures a block that waits for the server, and raises its network errors as `FetchError`."""
        token, self._wait_start = _current_watchdog.set(self), time.monotonic()
        try:
            yield
        except _NETWORK_ERRORS as error:
            raise FetchError(self._reason or printable(f"{type(error).__name__}: {error}", length=300)) from error
        finally:
            self._waited, self._wait_start = self._waited + time.monotonic() - self._wait_start, 0.0
            _current_watchdog.reset(token)
        if self._reason:
            raise FetchError(self._reason)

    def _run(self) -> None:
        received, waited = 0, 0.0
        while not self.done.wait(0.25):
            wait_start = self._wait_start
            now = self._waited + (time.monotonic() - wait_start if wait_start else 0.0)
            if self._stop.is_set():
                self._abort("stopped")
            elif now - waited >= self._timeout:
                if self.received - received < MIN_BYTES_PER_SECOND * self._timeout:
                    self._abort(f"less than {MIN_BYTES_PER_SECOND} bytes a second in {self._timeout:.0f} seconds")
                received, waited = self.received, now

    def _abort(self, reason: str) -> None:
        self._reason = reason
        if self.socket is not None:
            with suppress(OSError):
                socket.shutdown(self.socket, SHUT_RDWR)  # wakes the thread that waits for it


_current_watchdog: ContextVar[_Watchdog] = ContextVar("current_watchdog")


def is_public(address: str) -> bool:
    """True if an IP address is on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    return ip.is_global and not ip.is_multicast


def is_private_url(url: str) -> bool:
    """True if an http(s) URL resolves to an address outside of the public internet."""
    try:
        parts = urlsplit(url)
        resolved = getaddrinfo(parts.hostname, parts.port, type=SOCK_STREAM) if url.startswith(_SCHEMES) else []
        return any(not is_public(str(address[0])) for *_, address in resolved)
    except (OSError, ValueError):  # unknown host or malformed URL: the request itself reports it
        return False


def _check_peer(connection: Any, sock: socket) -> socket:
    """Returns a newly connected socket; closes it and raises `FetchError` if its peer is not allowed."""
    address = sock.getpeername()[0]
    if not (_current_watchdog.get().private or getattr(connection, "proxy", None) or is_public(address)):
        sock.close()
        raise FetchError(
            f"{printable(connection.host, length=200)} is at {address}, which is not on the public internet",
            retryable=False,
        )
    return sock


class _WatchedHTTPConnection(HTTPConnection):
    def _new_conn(self) -> socket:
        return _check_peer(self, super()._new_conn())

    def getresponse(self) -> Any:
        _current_watchdog.get().socket = self.sock
        return super().getresponse()


class _WatchedHTTPSConnection(_WatchedHTTPConnection, HTTPSConnection):
    """The same over TLS."""


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPSConnection


class _Adapter(HTTPAdapter):
    """Transport adapter whose connections check their peer and pass their socket to the watchdog."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


@contextmanager
def _open_local(url: str, start: int, validator: str) -> Iterator[Body]:
    path = Path(url2pathname(urlsplit(url).path))
    with _disk_errors_as_fetch_errors():
        if not path.parent.is_dir():
            raise FetchError(f"there is no folder {path.parent}", retryable=False)  # the disk may be unmounted
        if not path.is_file():  # opening a named pipe would block
            raise GoneError(f"there is no file {path}")
        file, stat = path.open("rb", buffering=0), path.stat()
    version = f"{stat.st_mtime_ns}"
    offset = min(start, stat.st_size) if validator in ("", version) else 0

    def read() -> bytes:
        with _disk_errors_as_fetch_errors():
            return file.read(READ_BYTES)

    with file:
        file.seek(offset)
        yield Body(offset, stat.st_size, version, read)


@contextmanager
def _disk_errors_as_fetch_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FetchError(printable(error)) from error
