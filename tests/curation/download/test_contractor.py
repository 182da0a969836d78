"""Contractor download from faulty servers: existing pairs arrive byte for byte, missing ones are in the report."""

import email.utils
import errno
import json
import re
import threading
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from vpt_jax.curation.download import contractor_survey, http_client, transfer
from vpt_jax.curation.download.contractor import ContractorError, download
from vpt_jax.curation.download.http_client import MAX_RETRY_AFTER, _retry_after_seconds
from vpt_jax.system.workers import FolderInUseError, locked

from .conftest import FRAMES, files, report, settings


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    monkeypatch.setattr(transfer, "INITIAL_BACKOFF", 0.05)


def stall(request, data):
    request.serve(data, stop=len(data) // 2)
    request.server.closing.wait(20)


def trickle(request, data):
    request.head(200, {"Content-Length": len(data)})
    request.send(data, pause=0.05)


def trickle_headers(request, data):
    request.connection.send(b"HTTP/1.1 200 OK\r\n")
    request.send(b"X-Long: " + b"x" * 10_000, pause=0.05)


def trickle_chunk(request, data):
    request.head(200, {"Transfer-Encoding": "chunked"})
    request.send(b"1;" + b"x" * 10_000, pause=0.05)


def endless(request, data):
    request.head(200, {"Connection": "close"})
    for _ in range(1000):
        request.send(b"x" * 100_000)


def endless_redirect(request, data):
    request.head(302, {"Location": "/moved" + request.path, "Connection": "close"})
    request.send(b"x" * 100_000_000)


def without_length(request, data):
    request.head(200, {"Connection": "close"})
    request.send(data if request.number else data[: len(data) // 2 - 20])  # within a line
    request.close_connection = True


def chunked(request, data):
    request.head(200, {"Transfer-Encoding": "chunked"})
    half = len(data) // 2
    for part in (data[:half], data[half:], b""):
        request.send(b"%x\r\n%s\r\n" % (len(part), part))


def changing(request, data):
    """Sends half of the old version, then the new one, for any requested range."""
    old = request.number == 0
    request.serve(b"old" * len(data) if old else data, stop=len(data) // 2 if old else None, etag=f'"{old}"')


def changing_without_etag(request, data):
    """Like `changing`, from a server without ETags; both versions have the same size."""
    old = request.number == 0
    request.serve(b"o" * len(data) if old else data, stop=len(data) // 2 if old else None, send_etag=False)


def ranges_without_etag(request, data):
    """Sends half of the file in response to a request for all of it, and ranges without an ETag."""
    is_range = "Range" in request.headers
    request.serve(data, stop=None if is_range else len(data) // 2, send_etag=not is_range)


def status(code, count=99, **headers):
    def behave(request, data):
        if request.number < count:
            request.head(code, {"Content-Length": "0"} | headers)
        else:
            request.serve(data)

    return behave


GOOD = {
    "500 twice": status(500, 2),
    "429 with a pause": status(429, 1, **{"Retry-After": "1"}),
    "cut once": lambda r, d: r.serve(d, stop=None if r.number else len(d) // 2),
    "cut thrice": lambda r, d: r.serve(d, stop=None if r.number > 2 else (r.number + 1) * len(d) // 5),
    "stalls once": lambda r, d: r.serve(d) if r.number else stall(r, d),
    "no ranges": lambda r, d: r.serve(d, stop=None if r.number else len(d) // 2, ranges=False),
    "redirect": lambda r, d: r.head(302, {"Location": "/moved" + r.path, "Content-Length": "0"}),
    "redirect with an endless body": endless_redirect,
    "without length": without_length,
    "chunked": chunked,
    "changes": changing,
    "changes, without ETags": changing_without_etag,
    "ranges without ETags": ranges_without_etag,
}
BAD = {  # the slowest ones first
    "stalls": (stall, "failed", "imed out|less than"),
    "trickles": (trickle, "failed", "less than 1024 bytes a second"),
    "trickles its headers": (trickle_headers, "failed", "less than 1024 bytes a second"),
    "trickles a chunk": (trickle_chunk, "failed", "less than 1024 bytes a second"),
    "404": (status(404), "gone", "404"),
    "410": (status(410), "gone", "410"),
    "403": (status(403), "failed", "403"),
    "500": (status(500), "failed", "500"),
    "always 416": (status(416), "failed", "416"),
    "too few bytes": (lambda r, d: r.serve(d, length=len(d) + 1000, ranges=False), "failed", "1000 more expected"),
    "stated size too small": (lambda r, d: r.serve(d, length=len(d) - 500), "broken", "truncated"),
    "stated size over the limit": (lambda r, d: r.serve(d, length=10**13), "too large", "10,000,000,000,000 bytes"),
    "endless": (endless, "too large", "continues after 1,000,000 bytes"),
    "loop": (lambda r, d: r.head(301, {"Location": r.path, "Content-Length": "0"}), "failed", "more than 5 times"),
    "redirect to a malformed URL": (status(302, Location="http://[x"), "failed", "Invalid IPv6 URL"),
    "redirect to a file": (status(302, Location="file:///etc/passwd"), "failed", r"not an http\(s\) URL"),
    "gzip": (lambda r, d: r.head(200, {"Content-Encoding": "gzip", "Content-Length": "0"}), "failed", "compressed"),
    "junk": (lambda r, d: r.serve(b"<html>busy</html>" * 50), "broken", "not an mp4|not valid JSON"),
    "empty": (lambda r, d: r.serve(b""), "broken", "no index|empty"),
}


def misbehave(server, expected):
    """Assigns faulty behaviour to one file of every fourth pair.

    Pairs that cannot be downloaded are removed from `expected`, and returned by name.
    """
    kinds = {name: behave for name, (behave, _, _) in BAD.items()} | GOOD
    stems, bad = sorted({name.rsplit(".", 1)[0] for name in expected}), {}
    for number, (name, suffix) in enumerate((name, suffix) for name in kinds for suffix in (".mp4", ".jsonl")):
        stem = stems[4 * number]
        path = f"/store/data/8.0/{stem.removeprefix('8.0_')}{suffix}"
        server.behaviour[path] = kinds[name]
        server.files["/moved" + path] = server.files[path]
        if name in BAD:
            bad[stem] = (server.url + path, *BAD[name][1:])
            del expected[f"{stem}.mp4"], expected[f"{stem}.jsonl"]
    return bad


def test_existing_pairs_are_downloaded_and_missing_ones_reported(server, pairs, tmp_path, capsys):
    expected = server.add_pairs(pairs, 300)
    bad = misbehave(server, expected)
    config = settings(f"{server.url}/index.json", tmp_path)
    with pytest.raises(ContractorError, match=r"\d+ of 300 pairs failed, such as .*run the same command again"):
        download(config)
    folder = tmp_path / "recordings/train"
    assert {name: data for name, data in files(folder).items() if (folder / name).exists()} == expected
    notes = {note["name"]: note for note in report(tmp_path)["missing"]}
    assert notes.keys() == bad.keys()
    for name, (url, state, why) in bad.items():
        assert (notes[name]["url"], notes[name]["state"]) == (url, state), notes[name]
        assert re.search(why, notes[name]["why"]), notes[name]
    assert report(tmp_path)["here"] == len(expected) // 2
    check_second_run(server, config, bad, expected, pairs)


def check_second_run(server, config, bad, expected, pairs):
    """Only failed pairs are retried, with success; permanently missing ones only with `retry_missing`."""
    server.behaviour.clear()
    server.requests.clear()
    index = {"/index.json"}
    config.contractor.timeout_seconds = 60.0  # nothing stalls now: a busy machine must not cause retries
    download(config)
    stems = {name for name, (_, state, _) in bad.items() if state == "failed"}
    failed = {url.removeprefix(server.url) for name, (url, _, _) in bad.items() if name in stems}
    others = {path for path in server.requests if path.endswith(".mp4")} - failed
    assert failed | index <= server.requests.keys() <= failed | others | index
    assert all(path.rsplit("/", 1)[1].removesuffix(".mp4") in "".join(stems) for path in others)
    folder = Path(config.recordings) / "train"
    assert not (folder / ".partial").exists()
    assert len(files(folder)) == len(expected) + 2 * len(stems)
    config.contractor.retry_missing = True
    download(config)
    assert len(files(folder)) == 600
    assert json.loads((folder.parent / "download.json").read_text())["missing"] == []
    for name, data in files(folder).items():
        assert data == pairs[int(name[10:13]) % len(pairs)][Path(name).suffix], name
    twice = {path for path, count in server.requests.items() if count > 1} - index
    assert len(twice) == 2  # the file with too few bytes has another version now: it is requested from byte 0
    assert max(server.requests[path] for path in twice) == 2


def test_local_mirror_and_limit_of_pairs(server, pairs, tmp_path):
    expected = server.add_pairs(pairs, 12)
    for path, data in server.files.items():
        place = tmp_path / "a mirror" / path.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    index = tmp_path / "a mirror/index.json"
    index.write_text(json.dumps(json.loads(index.read_bytes()) | {"basedir": "store"}))
    (index.parent / "store/data/8.0/player003-abc-20220101.mp4").unlink()
    download(settings(str(index), tmp_path, max_pairs=5))
    local_files = files(tmp_path / "recordings/train")
    assert local_files == {
        name: data for name, data in expected.items() if name < "8.0_player005" and "003" not in name
    }
    assert [(note["name"], note["state"]) for note in report(tmp_path)["missing"]] == [
        ("8.0_player003-abc-20220101", "gone")
    ]
    download(settings(index.as_uri(), tmp_path))
    assert len(files(tmp_path / "recordings/train")) == 22
    download(settings(f"{server.url}/index.json", tmp_path))  # gone there, but requested here
    assert files(tmp_path / "recordings/train") == expected
    paths = [f"data/{'x' * 300}/x.mp4", "data/8.0/player000-abc-20220101.mp4"]
    index.write_text(json.dumps({"basedir": "store", "relpaths": paths}))
    with pytest.raises(ContractorError, match=r"1 of 2 pairs failed, .*name too long"):
        download(settings(str(index), tmp_path / "others"))
    assert len(files(tmp_path / "others/recordings/train")) == 2
    index.write_bytes(server.files["/index.json"].replace(server.url.encode() + b"/", b""))
    (index.parent / "store").rename(tmp_path / "not mounted")
    with pytest.raises(ContractorError, match=r"12 of 12 pairs failed, .*there is no folder"):
        download(settings(str(index), tmp_path / "other"))


def test_consecutive_failures_end_the_run_and_are_retried(server, pairs, tmp_path):
    expected = server.add_pairs(pairs, 60)
    config = settings(f"{server.url}/index.json", tmp_path, retries=0, connections=1)  # in order
    for path in list(server.files):
        if path > "/store/data/8.0/player010":
            server.behaviour[path] = status(503)
    with pytest.raises(ContractorError, match=r"20 pairs in a row failed, .*503.*run the same command again"):
        download(config)
    arrived = {name: data for name, data in files(tmp_path / "recordings/train").items() if name in expected}
    assert arrived == {name: data for name, data in expected.items() if name < "8.0_player010"}
    assert len(server.requests) < 80
    server.behaviour.clear()
    server.log.clear()
    download(config)
    assert files(tmp_path / "recordings/train") == expected
    assert len(server.log) == 101


def test_pages_in_place_of_all_files_are_not_permanent_failures(server, pairs, tmp_path, capsys):
    expected = server.add_pairs(pairs, 60)
    config = settings(f"{server.url}/index.json", tmp_path, connections=1)  # so that pairs are completed in order
    server.behaviour = {path: BAD["junk"][0] for path in list(server.files)[10:] if path != "/index.json"}
    with pytest.raises(ContractorError, match=r"20 pairs in a row failed, .*not valid JSON.*run the same command"):
        download(config)
    assert {note["state"] for note in report(tmp_path)["missing"]} == {"failed"}
    server.behaviour.clear()
    download(config)
    assert files(tmp_path / "recordings/train") == expected
    (tmp_path / "recordings/train").rename(tmp_path / "away")
    server.behaviour = {path: BAD["junk"][0] for path in server.files if re.search(r"player\d\d[02468]", path)}
    for retry in (False, True):  # known broken pairs are not counted as consecutive failures
        download(settings(f"{server.url}/index.json", tmp_path, retry_missing=retry))
        assert "30 of 60 pairs are in" in (output := capsys.readouterr().out)
        assert "30 broken; set --config.contractor.retry_missing to retry them" in output


def test_rate_limit_is_shared_by_connections(server, pairs, tmp_path):
    expected = server.add_pairs(pairs, 24)
    size = sum(map(len, expected.values()))
    config = settings(f"{server.url}/index.json", tmp_path, megabytes_per_second=size / 2e6)
    start = time.monotonic()
    download(config)
    assert 1.9 < time.monotonic() - start < 6
    assert files(tmp_path / "recordings/train") == expected


def test_a_full_disk_ends_the_run(server, pairs, tmp_path, monkeypatch):
    expected = server.add_pairs(pairs, 12)

    def full(path, target):
        if Path(target).name == full.first:
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", full)
    for full.first in ("8.0_player003-abc-20220101.mp4", "download.json", ""):
        with pytest.raises(ContractorError, match=r"cannot write .*No space") if full.first else nullcontext():
            download(settings(f"{server.url}/index.json", tmp_path))
    assert server.requests["/store/data/8.0/player003-abc-20220101.mp4"] == 1
    assert files(tmp_path / "recordings/train") == expected


def test_dry_run_estimates_pairs_hours_and_bytes_without_a_download(server, pairs, tmp_path, capsys, monkeypatch):
    expected = server.add_pairs(pairs, 60)
    config = settings(f"{server.url}/index.json", tmp_path, dry_run=True)
    download(config)
    hours, size = sum(FRAMES) * 10 / 20 / 3600, sum(map(len, expected.values()))
    output = capsys.readouterr().out
    assert "requested all 60 pairs: 60 available, 0 gone, 0 unanswered; 60 videos state their duration" in output
    assert f"\ntotal: 60 pairs, {hours:.2f} hours, {size / 1e9:.3f} GB" in output
    assert sum(entry["sent"] for entry in server.log) < 60 * 200
    videos = [path for path in server.files if path.endswith(".mp4")]
    for path in videos[:5]:  # with very many boxes
        server.files[path] = b"\0\0\0\x08free" * 5000
    server.log.clear()
    download(config)
    assert "60 available, 0 gone, 0 unanswered; 55 videos state their duration" in capsys.readouterr().out
    assert len(server.log) < 60 * 6 + 5 * 20
    server.behaviour = {path: lambda r, d: r.serve(d, stop=20, ranges=False) for path in server.files}
    server.behaviour["/index.json"] = lambda request, data: request.serve(data)
    download(config)
    output = capsys.readouterr().out
    assert "60 available, 0 gone, 0 unanswered; 0 videos state their duration" in output
    size = sum(len(data) for path, data in server.files.items() if path != "/index.json")
    assert f"\ntotal: 60 pairs, hours unknown, {size / 1e9:.3f} GB" in output
    server.behaviour.clear()
    monkeypatch.setattr(contractor_survey, "SAMPLE", 20)
    for path in list(server.files)[::3]:  # alternately .jsonl and .mp4, so that two of three pairs lack one
        server.behaviour[path] = status(404)
    server.behaviour["/index.json"] = lambda request, data: request.serve(data)
    download(config)
    output = capsys.readouterr().out
    available = int(re.search(r"requested 20 randomly sampled of 60 pairs: (\d+) available", output)[1])
    assert f"estimated total: {3 * available} pairs" in output
    assert not (tmp_path / "recordings").exists()


def test_invalid_settings_and_indexes_are_refused(server, tmp_path):
    with pytest.raises(ContractorError, match=r"--config.contractor.index=URL"):
        download(settings("", tmp_path))
    with pytest.raises(ContractorError, match=r"config.contractor.connections is 0, and must be 1 or more"):
        download(settings("x", tmp_path, connections=0))
    with pytest.raises(ContractorError, match=r"cannot download the index http.*: gone: the server returned 404"):
        download(settings(f"{server.url}/nothing", tmp_path))
    with pytest.raises(ContractorError, match=r"cannot download the index file:///nowhere/index.json: failed"):
        download(settings("/nowhere/index.json", tmp_path))
    assert not any(tmp_path.iterdir())
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings/download.json").write_text("mine")
    server.files["/index.json"] = b'{"basedir": ".", "relpaths": ["a.mp4"]}'
    with pytest.raises(ContractorError, match=r"download.json is not a download report: move it away"):
        download(settings(f"{server.url}/index.json", tmp_path))
    (tmp_path / "recordings/mine.mp4").touch()
    with pytest.raises(ContractorError, match="is not a folder, or has recordings outside of train"):
        download(settings(f"{server.url}/index.json", tmp_path))
    (tmp_path / "recordings/mine.mp4").unlink()
    with locked(tmp_path / "recordings"), pytest.raises(FolderInUseError):
        download(settings(f"{server.url}/index.json", tmp_path))


def test_untrusted_index_cannot_reach_private_addresses(server, pairs, tmp_path):
    """(attack L4) Server-side request forgery: services that trust internal clients, such as a cloud's metadata."""
    expected = server.add_pairs(pairs, 1)
    index = tmp_path / "index.json"
    index.write_bytes(server.files["/index.json"])
    with pytest.raises(
        ContractorError, match=r"1 of 1 pairs failed, .* at 127\.0\.0\.1, which is not on the public internet"
    ):
        download(settings(str(index), tmp_path, retries=0))
    assert not server.log
    download(settings(str(index), tmp_path, allow_private_networks=True))
    assert files(tmp_path / "recordings/train") == expected


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",  # noqa: S104
     "224.0.0.1", "::1", "::", "fe80::1%eth0", "fd00:ec2::254", "::ffff:169.254.169.254", "::ffff:7f00:1",
     "2002:7f00:1::", "ff02::1"],
)  # fmt: skip
def test_private_addresses(address):
    assert not http_client.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "20.60.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses(address):
    assert http_client.is_public(address)


def test_redirect_to_a_private_address_is_not_followed(server, monkeypatch):
    """(attack L4) The address is checked at every connection, so after every redirect."""
    server.behaviour["/public"] = status(302, Location=server.url.replace("127.0.0.1", "localhost") + "/private")
    server.files |= {"/public": b"", "/private": b"secret"}
    checked = []
    monkeypatch.setattr(http_client, "is_public", lambda address: checked.append(address) or len(checked) == 1)
    with pytest.raises(http_client.FetchError, match=r"localhost is at .*, which is not on the public internet"):
        http_client.HTTPClient(5, threading.Event()).read_range(server.url + "/public", 0, 10)
    assert server.requests == {"/public": 1}


def test_messages_of_servers_are_escaped(server):
    """(attack M8) A reason phrase may contain escape sequences for terminals."""
    server.files["/a"] = b""
    server.behaviour["/a"] = lambda request, data: request.connection.send(
        b"HTTP/1.1 403 \x1b]0;pwned\x07 \x1b[2J\r\nContent-Length: 0\r\n\r\n"
    )
    with pytest.raises(http_client.FetchError, match=r"^the server returned 403 \\x1b\]0;pwned\\x07 \\x1b\[2J$"):
        http_client.HTTPClient(5, threading.Event(), private=True).read_range(server.url + "/a", 0, 1)


def test_a_server_states_its_pause_in_seconds_or_by_a_date():
    """RFC 9110, section 10.2.3; bounded, since a server must not stop a run for hours."""
    later = lambda seconds: email.utils.formatdate(time.time() + seconds, usegmt=True)  # noqa: E731
    assert _retry_after_seconds("7") == 7
    assert 20 < _retry_after_seconds(later(30)) <= 30
    assert _retry_after_seconds(later(-30)) == 0
    for long in ("3600", "9" * 30, later(3600)):
        assert _retry_after_seconds(long) == MAX_RETRY_AFTER
    for invalid in ("", "soon", "-1", "nan", "9" * 9999, "Mon, 99 Foo 99999999 99:99:99 GMT"):
        assert _retry_after_seconds(invalid) == 0
