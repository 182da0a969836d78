"""A site on this machine: feeds as search results, and films that arrive, are cut short, never end or are gone."""

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse
from xml.sax.saxutils import escape

import numpy as np

from vpt_jax.video import VideoWriter


@dataclass
class Film:
    body: bytes
    status: int = 200
    seconds: float | None = 300  # as the feed tells
    title: str = "a film"
    description: str = ""
    link: str = ""  # in place of its own address
    cuts: int = 0  # so many requests get half of what they ask for
    endless: bool = False
    delay: float = 0  # seconds between its parts
    headers: dict[str, str] = field(default_factory=dict)
    sent: int = 0  # how often it went out whole


DURATION = "<duration xmlns='http://www.itunes.com/dtds/podcast-1.0.dtd'>{}</duration>"


class Site(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.feeds: dict[str, dict[str, Film]] = {}  # by search term, by the film's path
        self.requests: list[str] = []
        self.cookies: set[str | None] = set()

    def handle_error(self, request, client_address):
        """Clients leave when they have enough."""

    def address(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def feed(self, term, most):
        items = [
            f"<item><title>{escape(film.title)}</title><description>{escape(film.description)}</description>"
            f"<link>{escape(film.link or self.address(path))}</link>"
            f"{'' if film.seconds is None else DURATION.format(film.seconds)}</item>"
            for path, film in self.feeds.get(term, {}).items()
        ]
        return f"<rss version='2.0'><channel><title>{term}</title>{''.join(items[:most])}</channel></rss>".encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: Site

    def log_message(self, format, *arguments):
        self.server.requests.append(self.path)
        self.server.cookies.add(self.headers["Cookie"])

    def do_GET(self):
        url = urlparse(self.path)
        films = {path: film for feed in self.server.feeds.values() for path, film in feed.items()}
        if url.path == "/feed":
            query = parse_qs(url.query)
            self._send(Film(self.server.feed(query["q"][0], int(query["n"][0]))), "application/rss+xml")
        elif film := films.get(url.path[1:]):
            self._send(film, "video/mp4")
        else:
            self.send_error(404)

    def _send(self, film, kind):
        if film.status != 200:
            return self.send_error(film.status)
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-").split("-")[0])
        part = film.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(film.body) - 1}/{len(film.body)}")
        if not film.endless:
            self.send_header("Content-Length", str(len(part)))
        for name, value in film.headers.items():
            self.send_header(name, value)
        self.end_headers()
        return self._send_body(film, part)

    def _send_body(self, film, part):
        if film.endless:
            while True:
                self.wfile.write(bytes(65536))
        if film.cuts:
            film.cuts -= 1
            self.wfile.write(part[: len(part) // 2])
            return
        for first in range(0, len(part), 4096):
            self.wfile.write(part[first : first + 4096])
            self.wfile.flush()
            time.sleep(film.delay)
        film.sent += 1


@contextmanager
def open_site():
    with Site() as site:
        threading.Thread(target=site.serve_forever, args=(0.02,), daemon=True).start()
        yield site
        site.shutdown()


def write_films(folder):
    """The bytes of four films of two seconds, of 64x36 pixels, all different and larger than a socket takes at once."""
    rng = np.random.default_rng(0)
    for number in range(4):
        with VideoWriter(folder / f"{number}.mp4", 36, 64, crf=1) as film:
            for _ in range(40):
                film.write(rng.integers(0, 256, (36, 64, 3), np.uint8))
    return [(folder / f"{number}.mp4").read_bytes() for number in range(4)]
