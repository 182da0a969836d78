"""Contractor recordings from servers that misbehave: what exists arrives byte for byte, the rest is listed."""

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
from vpt_jax.system.workers import FolderInUseError, locked

from .conftest import FRAMES, files, report, settings


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(transfer, "FIRST_PAUSE", 0.05)


def stall(request, data):
    request.serve(data, stop=len(data) // 2)
    request.server.over.wait(20)


def trickle(request, data):
    request.head(200, {"Content-Length": len(data)})
    request.send(data, pause=0.05)


def trickle_head(request, data):
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
    """Half of the old version, then the new one, whatever part is asked for."""
    old = request.number == 0
    request.serve(b"old" * len(data) if old else data, stop=len(data) // 2 if old else None, tag=f'"{old}"')


def changing_untold(request, data):
    """The same of a server that tells no tags, and both are of one size."""
    old = request.number == 0
    request.serve(b"o" * len(data) if old else data, stop=len(data) // 2 if old else None, told=False)


def parts_untold(request, data):
    """Half of the file to whoever asks for all; parts come without a tag."""
    part = "Range" in request.headers
    request.serve(data, stop=None if part else len(data) // 2, told=not part)


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
    "changes, without tags": changing_untold,
    "parts without tags": parts_untold,
}
BAD = {  # those that take longest first
    "stalls": (stall, "failed", "imed out|less than"),
    "trickles": (trickle, "failed", "less than 1024 bytes a second"),
    "trickles its head": (trickle_head, "failed", "less than 1024 bytes a second"),
    "trickles a chunk": (trickle_chunk, "failed", "less than 1024 bytes a second"),
    "404": (status(404), "gone", "404"),
    "410": (status(410), "gone", "410"),
    "403": (status(403), "failed", "403"),
    "500": (status(500), "failed", "500"),
    "always 416": (status(416), "failed", "416"),
    "says more": (lambda r, d: r.serve(d, length=len(d) + 1000, ranges=False), "failed", "1000 more expected"),
    "says less": (lambda r, d: r.serve(d, length=len(d) - 500), "broken", "cut short"),
    "claims too much": (lambda r, d: r.serve(d, length=10**13), "too large", "10,000,000,000,000 bytes"),
    "endless": (endless, "too large", "goes on after 1,000,000 bytes"),
    "loop": (lambda r, d: r.head(301, {"Location": r.path, "Content-Length": "0"}), "failed", "more than 5 times"),
    "to nonsense": (status(302, Location="http://[x"), "failed", "Invalid IPv6 URL"),
    "to a file": (status(302, Location="file:///etc/passwd"), "failed", "not on the web"),
    "packed": (lambda r, d: r.head(200, {"Content-Encoding": "gzip", "Content-Length": "0"}), "failed", "packed"),
    "junk": (lambda r, d: r.serve(b"<html>busy</html>" * 50), "broken", "no mp4|no JSON"),
    "empty": (lambda r, d: r.serve(b""), "broken", "no index|empty"),
}


def misbehave(server, expected):
    """Serves a half of every fourth pair badly. What cannot be had goes out of `expected`, and is returned by name."""
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


def test_what_exists_arrives_and_the_rest_is_listed(server, pairs, tmp_path, capsys):
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
    check_the_second_run(server, config, bad, expected, pairs)


def check_the_second_run(server, config, bad, expected, pairs):
    """Only what failed is asked for again, and then comes; what is settled, only with `retry_missing`."""
    server.behaviour.clear()
    server.requests.clear()
    index = {"/index.json"}
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
    assert len(twice) == 2  # the rest of what promised more is of another version by now: all is asked for
    assert max(server.requests[path] for path in twice) == 2


def test_a_mirror_on_disk_and_a_limit_of_pairs(server, pairs, tmp_path):
    expected = server.add_pairs(pairs, 12)
    for path, data in server.files.items():
        place = tmp_path / "a mirror" / path.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    index = tmp_path / "a mirror/index.json"
    index.write_text(json.dumps(json.loads(index.read_bytes()) | {"basedir": "store"}))
    (index.parent / "store/data/8.0/player003-abc-20220101.mp4").unlink()
    download(settings(str(index), tmp_path, pairs=5))
    here = files(tmp_path / "recordings/train")
    assert here == {name: data for name, data in expected.items() if name < "8.0_player005" and "003" not in name}
    assert [(note["name"], note["state"]) for note in report(tmp_path)["missing"]] == [
        ("8.0_player003-abc-20220101", "gone")
    ]
    download(settings(index.as_uri(), tmp_path))
    assert len(files(tmp_path / "recordings/train")) == 22
    download(settings(f"{server.url}/index.json", tmp_path))  # what is gone there need not be gone here
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


def test_a_server_that_is_down_ends_the_run_and_costs_nothing(server, pairs, tmp_path):
    expected = server.add_pairs(pairs, 60)
    config = settings(f"{server.url}/index.json", tmp_path, retries=0, connections=2)
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


def test_a_page_in_place_of_all_files_settles_nothing(server, pairs, tmp_path, capsys):
    expected = server.add_pairs(pairs, 60)
    config = settings(f"{server.url}/index.json", tmp_path, connections=1)  # so that pairs end in their order
    server.behaviour = {path: BAD["junk"][0] for path in list(server.files)[10:] if path != "/index.json"}
    with pytest.raises(ContractorError, match=r"20 pairs in a row failed, .*no JSON.*run the same command again"):
        download(config)
    assert {note["state"] for note in report(tmp_path)["missing"]} == {"failed"}
    server.behaviour.clear()
    download(config)
    assert files(tmp_path / "recordings/train") == expected
    (tmp_path / "recordings/train").rename(tmp_path / "away")
    server.behaviour = {path: BAD["junk"][0] for path in server.files if re.search(r"player\d\d[02468]", path)}
    for retry in (False, True):  # what is known to be broken may be so many pairs in a row
        download(settings(f"{server.url}/index.json", tmp_path, retry_missing=retry))
        assert "30 of 60 pairs are in" in (said := capsys.readouterr().out)
        assert "30 broken; --config.contractor.retry_missing asks again" in said


def test_the_bandwidth_is_shared_and_kept(server, pairs, tmp_path):
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


def test_a_dry_run_tells_pairs_hours_and_bytes_and_fetches_nothing(server, pairs, tmp_path, capsys, monkeypatch):
    expected = server.add_pairs(pairs, 60)
    config = settings(f"{server.url}/index.json", tmp_path, dry_run=True)
    download(config)
    hours, size = sum(FRAMES) * 10 / 20 / 3600, sum(map(len, expected.values()))
    said = capsys.readouterr().out
    assert "asked about all 60 pairs: 60 are there, 0 gone, 0 did not answer; 60 films told their length" in said
    assert f"in all: 60 pairs, {hours:.2f} hours, {size / 1e9:.3f} GB" in said
    assert sum(entry["sent"] for entry in server.log) < 60 * 200
    films = [path for path in server.files if path.endswith(".mp4")]
    for path in films[:5]:  # of very many parts
        server.files[path] = b"\0\0\0\x08free" * 5000
    server.log.clear()
    download(config)
    assert "60 are there, 0 gone, 0 did not answer; 55 films told their length" in capsys.readouterr().out
    assert len(server.log) < 60 * 6 + 5 * 20
    server.behaviour = {path: lambda r, d: r.serve(d, stop=20, ranges=False) for path in server.files}
    server.behaviour["/index.json"] = lambda request, data: request.serve(data)
    download(config)
    said = capsys.readouterr().out
    assert "60 are there, 0 gone, 0 did not answer; 0 films told their length" in said
    size = sum(len(data) for path, data in server.files.items() if path != "/index.json")
    assert f"in all: 60 pairs, hours unknown, {size / 1e9:.3f} GB" in said
    server.behaviour.clear()
    monkeypatch.setattr(contractor_survey, "SAMPLE", 20)
    for path in list(server.files)[::3]:  # of the jsonl and mp4 of pairs in turn, so that two in three lack one
        server.behaviour[path] = status(404)
    server.behaviour["/index.json"] = lambda request, data: request.serve(data)
    download(config)
    said = capsys.readouterr().out
    there = int(re.search(r"asked about 20 pairs, drawn at random, of 60 pairs: (\d+) are there", said)[1])
    assert f"by that, all are about: {3 * there} pairs" in said
    assert not (tmp_path / "recordings").exists()


def test_what_cannot_be_downloaded_is_refused(server, tmp_path):
    with pytest.raises(ContractorError, match=r"--config.contractor.index=URL"):
        download(settings("", tmp_path))
    with pytest.raises(ContractorError, match=r"config.contractor.connections is 0, and must be 1 or more"):
        download(settings("x", tmp_path, connections=0))
    with pytest.raises(ContractorError, match=r"no index to be had at http.*: gone: the server says 404"):
        download(settings(f"{server.url}/nothing", tmp_path))
    with pytest.raises(ContractorError, match=r"no index to be had at file:///nowhere/index.json: failed"):
        download(settings("/nowhere/index.json", tmp_path))
    assert not any(tmp_path.iterdir())
    (tmp_path / "recordings").mkdir()
    (tmp_path / "recordings/download.json").write_text("mine")
    server.files["/index.json"] = b'{"basedir": ".", "relpaths": ["a.mp4"]}'
    with pytest.raises(ContractorError, match=r"download.json is no report of a download: move it away"):
        download(settings(f"{server.url}/index.json", tmp_path))
    (tmp_path / "recordings/mine.mp4").touch()
    with pytest.raises(ContractorError, match="is no folder, or has recordings beside train"):
        download(settings(f"{server.url}/index.json", tmp_path))
    (tmp_path / "recordings/mine.mp4").unlink()
    with locked(tmp_path / "recordings"), pytest.raises(FolderInUseError):
        download(settings(f"{server.url}/index.json", tmp_path))


def test_an_index_from_elsewhere_names_no_machine_of_ours(server, pairs, tmp_path):
    """(attack L4) What trusts whoever is inside, such as a cloud's metadata, is not asked for a stranger."""
    expected = server.add_pairs(pairs, 1)
    index = tmp_path / "index.json"
    index.write_bytes(server.files["/index.json"])
    with pytest.raises(
        ContractorError, match=r"1 of 1 pairs failed, .* at 127\.0\.0\.1, which is not on the public internet"
    ):
        download(settings(str(index), tmp_path, retries=0))
    assert not server.log
    download(settings(str(index), tmp_path, private=True))
    assert files(tmp_path / "recordings/train") == expected


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.9.9.9", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0",  # noqa: S104
     "224.0.0.1", "::1", "::", "fe80::1%eth0", "fd00:ec2::254", "::ffff:169.254.169.254", "::ffff:7f00:1",
     "2002:7f00:1::", "ff02::1"],
)  # fmt: skip
def test_addresses_that_are_not_on_the_public_internet(address):
    assert not http_client.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "20.60.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_addresses_on_the_public_internet(address):
    assert http_client.is_public(address)


def test_a_redirect_to_this_machine_is_not_followed(server, monkeypatch):
    """(attack L4) Wherever a name leads to is judged when it is connected to, so after every redirect."""
    server.behaviour["/public"] = status(302, Location=server.url.replace("127.0.0.1", "localhost") + "/private")
    server.files |= {"/public": b"", "/private": b"secret"}
    asked = []
    monkeypatch.setattr(http_client, "is_public", lambda address: asked.append(address) or len(asked) == 1)
    with pytest.raises(http_client.FetchError, match=r"localhost is at .*, which is not on the public internet"):
        http_client.Bodies(5, threading.Event()).read_part(server.url + "/public", 0, 10)
    assert server.requests == {"/public": 1}


def test_what_a_server_says_is_shown_without_its_escapes(server):
    """(attack M8) A reason phrase may hold what terminals obey."""
    server.files["/a"] = b""
    server.behaviour["/a"] = lambda request, data: request.connection.send(
        b"HTTP/1.1 403 \x1b]0;pwned\x07 \x1b[2J\r\nContent-Length: 0\r\n\r\n"
    )
    with pytest.raises(http_client.FetchError, match=r"^the server says 403 \\x1b\]0;pwned\\x07 \\x1b\[2J$"):
        http_client.Bodies(5, threading.Event(), private=True).read_part(server.url + "/a", 0, 1)
