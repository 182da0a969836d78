"""HTTP test server for pairs of recordings, with faulty behaviour by path."""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from configs.prepare import get_config
from vpt_jax.recording import RecordingWriter

SIZE, KINDS = 64, 6
FRAMES = [20 + 4 * kind for kind in range(KINDS)]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Bytes of some recordings of incompressible noise: [{".mp4": bytes, ".jsonl": bytes}]."""
    folder = tmp_path_factory.mktemp("pairs")
    for kind, frames in enumerate(FRAMES):
        rng = np.random.default_rng(kind)
        with RecordingWriter(folder / f"{kind}", SIZE, SIZE) as recording:
            for _ in range(frames):
                recording.write(rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8), {"camera": rng.normal(0, 5, 2)})
    return [{s: (folder / f"{kind}{s}").read_bytes() for s in (".mp4", ".jsonl")} for kind in range(KINDS)]


class Handler(BaseHTTPRequestHandler):
    """Handler of a correct server: Content-Length, range requests, If-Range."""

    protocol_version = "HTTP/1.1"
    wbufsize = 0

    def do_GET(self):
        server = self.server
        with server.lock:
            self.number = server.requests[self.path]
            server.requests[self.path] += 1
            self.entry = {"path": self.path, "start": 0, "sent": 0}
            server.log.append(self.entry)
        data = server.files.get(self.path)
        try:
            if behave := server.behaviour.get(self.path):
                behave(self, data)
            elif data is None:
                self.head(404, {"Content-Length": "0"})
            else:
                self.serve(data)
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def serve(self, data, stop=None, ranges=True, length=None, etag='"1"', send_etag=True):
        """Sends a file, or the requested range, up to byte `stop` of the file, with or without its ETag."""
        requested = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if ranges else None
        if requested and self.headers.get("If-Range", etag) == etag:
            start, end = int(requested[1]), min(int(requested[2] or len(data)) + bool(requested[2]), len(data))
            if start >= len(data):
                self.head(416, {"Content-Length": "0", "Content-Range": f"bytes */{len(data)}"})
                return
            self.entry["start"] = start
            self.head(206, {"Content-Length": end - start, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
                      | ({"ETag": etag} if send_etag else {}))  # fmt: skip
        else:
            start, end = 0, len(data)
            size = len(data) if length is None else length
            self.head(200, {"Content-Length": size} | ({"ETag": etag} if send_etag else {}))
        self.send(data[start : end if stop is None else min(stop, end)])
        if stop is not None or length is not None:
            self.close_connection = True

    def send(self, data, pause=0.0):
        step = 4096 if not pause else 1
        for offset in range(0, len(data), step):
            self.entry["sent"] += self.connection.send(data[offset : offset + step])
            time.sleep(pause or self.server.pause)

    def log_message(self, *arguments):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.behaviour, self.requests, self.log = {}, {}, Counter(), []
        self.lock, self.closing, self.pause = threading.Lock(), threading.Event(), 0.0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # killed clients cause errors

    def add_pairs(self, pairs, count, basedir="/store/"):
        """Serves an index of `count` pairs; returns the expected content of each file by its local name."""
        paths, expected = [], {}
        for number in range(count):
            stem = f"player{number:03d}-abc-20220101"
            paths.append(f"data/8.0/{stem}.mp4")
            for suffix, data in pairs[number % len(pairs)].items():
                self.files[f"{basedir}data/8.0/{stem}{suffix}"] = data
                expected[f"8.0_{stem}{suffix}"] = data
        self.files["/index.json"] = json.dumps({"basedir": self.url + basedir, "relpaths": paths}).encode()
        return expected


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.closing.set()  # wakes handlers that stall
        running.shutdown()
        thread.join()


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def settings(index, folder, **changes):
    config = get_config()
    config.update(recordings=str(folder / "recordings"), out=str(folder / "dataset"))
    config.contractor.update(index=index, connections=12, timeout_seconds=1.0, retries=3, max_megabytes=1.0)
    config.contractor.update(changes)
    return config


def report(folder):
    return json.loads((folder / "recordings/download.json").read_text())
