"""Local video site: feeds as search results, and videos that are complete, truncated, endless or missing."""

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
class Video:
    body: bytes
    status: int = 200
    seconds: float | None = 300  # duration in the feed
    title: str = "a video"
    description: str = ""
    link: str = ""  # in place of its own URL
    truncations: int = 0  # number of requests that get half of the requested bytes
    endless: bool = False
    delay: float = 0  # seconds between its chunks
    headers: dict[str, str] = field(default_factory=dict)
    kind: str = "video/mp4"
    sent: int = 0  # number of complete transfers


DURATION = "<duration xmlns='http://www.itunes.com/dtds/podcast-1.0.dtd'>{}</duration>"


class Site(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.feeds: dict[str, dict[str, Video]] = {}  # by search term, by the video's path
        self.requests: list[str] = []
        self.cookies: set[str | None] = set()

    def handle_error(self, request, client_address):
        """Ignores connections that the client closes early."""

    def url(self, path):
        return f"http://127.0.0.1:{self.server_port}/{path}"

    def feed(self, term, results):
        items = [
            f"<item><title>{escape(video.title)}</title><description>{escape(video.description)}</description>"
            f"<link>{escape(video.link or self.url(path))}</link>"
            f"{'' if video.seconds is None else DURATION.format(video.seconds)}</item>"
            for path, video in self.feeds.get(term, {}).items()
        ]
        return f"<rss version='2.0'><channel><title>{term}</title>{''.join(items[:results])}</channel></rss>".encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server: Site

    def log_message(self, format, *arguments):
        self.server.requests.append(self.path)
        self.server.cookies.add(self.headers["Cookie"])

    def do_GET(self):
        url = urlparse(self.path)
        videos = {path: video for feed in self.server.feeds.values() for path, video in feed.items()}
        if url.path == "/feed":
            query = parse_qs(url.query)
            self._send(Video(self.server.feed(query["q"][0], int(query["n"][0]))), "application/rss+xml")
        elif video := videos.get(url.path[1:]):
            self._send(video, video.kind)
        else:
            self.send_error(404)

    def _send(self, video, kind):
        if video.status != 200:
            return self.send_error(video.status)
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-").split("-")[0])
        part = video.body[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(video.body) - 1}/{len(video.body)}")
        if not video.endless:
            self.send_header("Content-Length", str(len(part)))
        for name, value in video.headers.items():
            self.send_header(name, value)
        self.end_headers()
        return self._send_body(video, part)

    def _send_body(self, video, part):
        if video.endless:
            while True:
                self.wfile.write(bytes(65536))
        if video.truncations:
            video.truncations -= 1
            self.wfile.write(part[: len(part) // 2])
            return
        for first in range(0, len(part), 4096):
            self.wfile.write(part[first : first + 4096])
            self.wfile.flush()
            time.sleep(video.delay)
        video.sent += 1


@contextmanager
def open_site():
    with Site() as site:
        threading.Thread(target=site.serve_forever, args=(0.02,), daemon=True).start()
        yield site
        site.shutdown()


def write_videos(folder):
    """Bytes of four different videos of two seconds and 64x36 pixels, larger than a socket's buffer."""
    rng = np.random.default_rng(0)
    for number in range(4):
        with VideoWriter(folder / f"{number}.mp4", 36, 64, crf=1) as video:
            for _ in range(40):
                video.write(rng.integers(0, 256, (36, 64, 3), np.uint8))
    return [(folder / f"{number}.mp4").read_bytes() for number in range(4)]
