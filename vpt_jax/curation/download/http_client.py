"""The bytes of a file at a URL, from any byte on: by HTTP, or from a folder of this machine (file://)."""

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

from vpt_jax.system.printable import printable

READ_BYTES = 2**16  # at most, at a time
SLOWEST = 1024  # bytes a second, on average over the time-out; a server that sends less is left
MAX_REDIRECTS = 5
LONGEST_PAUSE = 60  # seconds that a server's "Retry-After" can make us wait
_SCHEMES = ("http://", "https://")
_NETWORK_ERRORS = (OSError, HTTPError, HTTPException, ValueError)  # requests' own are among these


class GoneError(Exception):
    """There is no such file, and the server is sure of it."""


class FetchError(Exception):
    """A file could not be read. `again` tells if a second try may help, `pause` after how many seconds."""

    def __init__(self, why: str, again: bool = True, pause: float = 0.0):
        super().__init__(why)
        self.again, self.pause = again, pause


class PastEndError(FetchError):
    """The file ends before the byte that was asked for."""


class Body(NamedTuple):
    """An opened file."""

    start: int  # the place in the file of the first byte that `read` gives: as asked for, or 0
    size: int | None  # bytes of the whole file; None if the server does not say
    tag: str  # what tells this version of the file from another; "" if the server does not say
    read: Callable[[], bytes]  # what has come, up to `READ_BYTES`; b"" at the end, even if that came too early


def as_url(place: str) -> str:
    """A URL as it is; the path of a local file as file://."""
    return place if place.startswith((*_SCHEMES, "file:")) else Path(place).resolve().as_uri()


class Bodies:
    """Opens files; safe to share between threads.

    Args:
        timeout: seconds for connecting, for waiting for a byte, and in which `SLOWEST` must hold.
        stop: once set, what is being read ends with a `FetchError`.
        private: also ask addresses that are not on the public internet: of this machine, of private networks, and of
            a cloud's metadata. Else what a stranger's index or redirect names could reach services that trust whoever
            is inside. It is the address connected to that counts, whatever its name; behind a proxy, that of the proxy
            is not judged, and the proxy must refuse them.
    """

    def __init__(self, timeout: float, stop: threading.Event, private: bool = False):
        self._timeout, self._stop, self._local, self._private = timeout, stop, threading.local(), private

    @contextmanager
    def open(self, url: str, start: int = 0, stop: int | None = None, tag: str = "") -> Iterator[Body]:
        """The bytes `start` to `stop` of a file, or more, if the server does not know of parts.

        Args:
            tag: of the version that is wanted; if the file is another one by now, it begins at byte 0.

        Raises:
            GoneError, FetchError: here, or when the body is read.
        """
        if url.startswith("file:"):
            with _open_local(url, start, tag) as body:
                yield body
            return
        asked = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop else {}
        condition = {"If-Range": tag} if tag and start else {}
        watch = _Watch(self._timeout, self._stop, self._private)
        try:
            response = self._respond(url, asked | condition, watch)
            try:
                yield _body(response, watch)
            finally:
                response.close()
        finally:
            watch.over.set()

    def read_part(self, url: str, start: int, length: int) -> tuple[bytes, int | None]:
        """Some bytes of a file, fewer where it ends, and the size of the whole. Raises as `open`."""
        with self.open(url, start, start + length) as body:
            if body.start != start:
                raise FetchError("the server knows no ranges", again=False)
            data = bytearray()
            while len(data) < length and (more := body.read()):
                data += more
        return bytes(data[:length]), body.size

    def _respond(self, url: str, headers: dict[str, str], watch: "_Watch") -> requests.Response:
        """The answer to a request that is no redirect; no redirect's body is read, however long it may be."""
        for _ in range(MAX_REDIRECTS + 1):
            with watch.waiting():
                response = self._session.get(
                    url, headers=headers, stream=True, allow_redirects=False, timeout=self._timeout
                )
            if not response.is_redirect:
                return response
            response.close()
            with watch.waiting():  # a location may be nonsense
                url = urljoin(url, response.headers["location"])
            if not url.startswith(_SCHEMES):
                raise FetchError(f"redirected to {printable(url, length=200)}, which is not on the web", again=False)
        raise FetchError(f"redirected more than {MAX_REDIRECTS} times", again=False)

    @property
    def _session(self) -> requests.Session:
        """Of this thread: connections are kept open from file to file."""
        if not hasattr(self._local, "session"):
            session = _Session()
            session.headers["Accept-Encoding"] = "identity"  # sizes and ranges then mean the file's bytes
            for scheme in _SCHEMES:
                session.mount(scheme, _Adapter())
            self._local.session = session
        return self._local.session


def _body(response: requests.Response, watch: "_Watch") -> Body:
    _check_status(response)
    start, size = _extent(response)

    def read() -> bytes:
        with watch.waiting():
            data = response.raw.read1(READ_BYTES, decode_content=False) or b""
        watch.received += len(data)
        return data

    etag = response.headers.get("etag", "")
    tag = response.headers.get("last-modified", "") if etag.startswith("W/") else etag
    return Body(start, size, tag or response.headers.get("last-modified", ""), read)


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    said = f"the server says {status} {printable(response.reason or '', length=150)}".strip()
    if status in (404, 410):
        raise GoneError(said)
    if status == 416:
        raise PastEndError(said)
    if status in (408, 425, 429) or status >= 500:
        raise FetchError(said, pause=_seconds(response.headers.get("retry-after", "")))
    if status not in (200, 206):
        raise FetchError(said, again=False)
    if response.headers.get("content-encoding", "identity") != "identity":
        raise FetchError("the server sends the file packed, which nobody asked for", again=False)


def _seconds(text: str) -> float:
    return min(float(text), LONGEST_PAUSE) if re.fullmatch(r"[0-9]{1,9}", text) else 0.0


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Where the body begins in the file, and the size of the whole file."""
    if response.status_code == 206:
        parts = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("content-range", ""))
        if parts is None:
            raise FetchError("the server does not say which part of the file it sends")
        return int(parts[1]), None if parts[2] == "*" else int(parts[2])
    length = response.headers.get("content-length", "")
    said = re.fullmatch(r"[0-9]{1,18}", length) and "transfer-encoding" not in response.headers
    return 0, int(length) if said else None


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None, for where there is one, requests reads the whole body into memory, even if it does not follow."""


class _Watch:
    """Ends a connection that brings nearly nothing, in headers or body, or whose run is to stop.

    A socket's own time-out does not: it begins anew at every byte. Only time spent waiting for the server counts.
    """

    def __init__(self, seconds: float, stop: threading.Event, private: bool):
        self.received, self.over, self.private = 0, threading.Event(), private
        self.socket: socket | None = None
        self._seconds, self._stop, self._why = seconds, stop, ""
        self._waited, self._since = 0.0, 0.0  # seconds waited before; since when it waits now, 0 if it does not
        threading.Thread(target=self._run, daemon=True).start()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what waits for the server. Whatever goes wrong with it is raised as a `FetchError`."""
        token, self._since = _watching.set(self), time.monotonic()
        try:
            yield
        except _NETWORK_ERRORS as error:
            raise FetchError(self._why or printable(f"{type(error).__name__}: {error}", length=300)) from error
        finally:
            self._waited, self._since = self._waited + time.monotonic() - self._since, 0.0
            _watching.reset(token)
        if self._why:
            raise FetchError(self._why)

    def _run(self) -> None:
        received, waited = 0, 0.0
        while not self.over.wait(0.25):
            since = self._since
            now = self._waited + (time.monotonic() - since if since else 0.0)
            if self._stop.is_set():
                self._end("stopped")
            elif now - waited >= self._seconds:
                if self.received - received < SLOWEST * self._seconds:
                    self._end(f"less than {SLOWEST} bytes a second came in {self._seconds:.0f} seconds")
                received, waited = self.received, now

    def _end(self, why: str) -> None:
        self._why = why
        if self.socket is not None:
            with suppress(OSError):
                socket.shutdown(self.socket, SHUT_RDWR)  # wakes who waits for it


_watching: ContextVar[_Watch] = ContextVar("watching")


def is_public(address: str) -> bool:
    """True if an IP address is on the public internet."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None) or ip
    return ip.is_global and not ip.is_multicast


def is_private_place(url: str) -> bool:
    """True if a web URL leads to a machine that is not on the public internet."""
    try:
        parts = urlsplit(url)
        found = getaddrinfo(parts.hostname, parts.port, type=SOCK_STREAM) if url.startswith(_SCHEMES) else []
        return any(not is_public(str(address[0])) for *_, address in found)
    except (OSError, ValueError):  # no such host, or no URL: who asks it will see
        return False


def _judged(connection: Any, opened: socket) -> socket:
    """A socket that has just been opened, if what it leads to may be asked."""
    address = opened.getpeername()[0]
    if not (_watching.get().private or getattr(connection, "proxy", None) or is_public(address)):
        opened.close()
        raise FetchError(
            f"{printable(connection.host, length=200)} is at {address}, which is not on the public internet",
            again=False,
        )
    return opened


class _WatchedHTTP(HTTPConnection):
    def _new_conn(self) -> socket:
        return _judged(self, super()._new_conn())

    def getresponse(self) -> Any:
        _watching.get().socket = self.sock
        return super().getresponse()


class _WatchedHTTPS(HTTPSConnection):
    def _new_conn(self) -> socket:
        return _judged(self, super()._new_conn())

    def getresponse(self) -> Any:
        _watching.get().socket = self.sock
        return super().getresponse()


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _WatchedHTTP


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPS


class _Adapter(HTTPAdapter):
    """With connections that tell the watch their socket."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **options)
        manager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        return manager


@contextmanager
def _open_local(url: str, start: int, tag: str) -> Iterator[Body]:
    path = Path(url2pathname(urlsplit(url).path))
    with _disk_errors():
        if not path.parent.is_dir():
            raise FetchError(f"there is no folder {path.parent}", again=False)  # a disk that is not there just now
        if not path.is_file():  # a pipe would be waited for
            raise GoneError(f"there is no file {path}")
        file, stat = path.open("rb", buffering=0), path.stat()
    version = f"{stat.st_mtime_ns}"
    first = min(start, stat.st_size) if tag in ("", version) else 0

    def read() -> bytes:
        with _disk_errors():
            return file.read(READ_BYTES)

    with file:
        file.seek(first)
        yield Body(first, stat.st_size, version, read)


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FetchError(printable(error)) from error
