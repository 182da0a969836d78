"""Indexes of contractor recordings: parsing, refused entries, and no path traversal by names."""

import json
import re
from datetime import datetime
from urllib.parse import quote

import pytest

from vpt_jax.contractor_names import parse_name
from vpt_jax.curation.download.contractor import ContractorError, download
from vpt_jax.curation.download.contractor_index import (
    MAX_INDEX_BYTES,
    MAX_NAME_LENGTH,
    InvalidIndexError,
    local_name,
    parse_index,
)

from .conftest import files, report, settings

WEB = "https://host/snapshots/index.json"


def parse(tmp_path, content, url=WEB):
    path = tmp_path / "index.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return parse_index(path, url)


@pytest.mark.parametrize("folder", ["6.9", "7.0", "8.0", "9.0", "10.0", "find-cave"])
def test_pairs_of_all_recorders(tmp_path, folder):
    paths = [f"data/{folder}/squeaky-magenta-ocelot-{number}.mp4" for number in (2, 1)]
    index = parse(tmp_path, {"basedir": "https://host/rl", "relpaths": paths})
    assert [pair.name for pair in index.pairs] == [f"{folder}_squeaky-magenta-ocelot-{number}" for number in (2, 1)]
    assert index.pairs[0].url(".jsonl") == f"https://host/rl/data/{folder}/squeaky-magenta-ocelot-2.jsonl"
    assert not index.refused


NAME = "cheeky-cornflower-setter-74ae6c2eae2e-20220315-122354"


@pytest.mark.parametrize("basedir", ["https://host/rl", "https://host/rl/", "", "./", "https://host/snapshots"])
@pytest.mark.parametrize("suffix", ["", ".mp4"])
@pytest.mark.parametrize(
    ("path", "name"),
    [
        (f"data/8.0/{NAME}", f"8.0_{NAME}"),
        (f"8.0/{NAME}", f"8.0_{NAME}"),
        (f"10.0/{NAME}.take.2", f"10.0_{NAME}.take.2"),
        (NAME, f"{NAME}-[0-9a-f]{{16}}"),
        (f"a mirror/data/6.9/{NAME}", f"6.9_{NAME}-[0-9a-f]{{16}}"),
        (f"x/find-cave/{NAME}", f"x_find-cave_{NAME}-[0-9a-f]{{16}}"),
    ],
)
def test_paths_with_and_without_suffix_folder_and_slash(tmp_path, basedir, suffix, path, name):
    """As in OpenAI's README, and as in the indexes; the local name is the same for both (fidelity D9)."""
    (pair,) = parse(tmp_path, {"basedir": basedir, "relpaths": [path + suffix]}).pairs
    assert re.fullmatch(name, pair.name)
    assert pair.name == local_name(path)
    folder = "https://host/rl/" if basedir.startswith("https://host/rl") else "https://host/snapshots/"
    for half in (".mp4", ".jsonl"):
        assert pair.url(half) == folder + quote(path) + half
    assert parse_name(pair.name) == ("cheeky-cornflower-setter", "74ae6c2eae2e", datetime(2022, 3, 15, 12, 23, 54)) or (
        "take" in path
    )


def test_paths_with_and_without_suffix_are_one_recording(tmp_path):
    index = parse(tmp_path, {"basedir": "", "relpaths": [f"8.0/{NAME}", f"8.0/{NAME}.mp4", f"data/8.0/{NAME}"]})
    assert [pair.relpath for pair in index.pairs] == [f"8.0/{NAME}"]
    assert index.refused_count == 2


@pytest.mark.parametrize("name", ["x.jsonl", "x.zip", "x-options.json", ".mp4", ".jsonl", "x.MP4", "x.mp4.part"])
def test_other_files_are_refused(tmp_path, name):
    index = parse(tmp_path, {"basedir": "", "relpaths": [f"data/8.0/{name}", name, "8.0/x"]})
    assert [pair.name for pair in index.pairs] == ["8.0_x"]
    assert [reason for _, reason in index.refused] == ["not an .mp4 file"] * 2


HOSTILE = [
    "../up.mp4", "data/../../up.mp4", "/root.mp4", "data//x.mp4", "./x.mp4", "data/nul\0.mp4", "data\\x.mp4",
    "C:/x.mp4",
    "http://other/x.mp4", "data/line\nbreak.mp4", "data/\ud800.mp4", "data/8.0/x.jsonl", "data/8.0/.mp4", "", 7, None,
    "x" * 2000 + ".mp4", ["data/8.0/x.mp4"], "data/8.0/twice.mp4",
]  # fmt: skip
ODD = [
    "data/8.0/a b?c#d%20.mp4", "x.mp4", "a/8.0/x.mp4", "a_8.0/x.mp4", f"data/8.0/{'y' * 200}.mp4", "data/8.0/-é.mp4",
]  # fmt: skip


def test_hostile_entries_are_reported_and_write_nothing_elsewhere(server, pairs, tmp_path):
    relpaths = ["data/8.0/twice.mp4", *HOSTILE, *ODD]
    server.files["/index.json"] = json.dumps({"basedir": server.url + "/b", "relpaths": relpaths}).encode()
    for entry in ("data/8.0/twice.mp4", *ODD):
        for suffix, data in pairs[0].items():
            server.files["/b/" + quote(entry.removesuffix(".mp4") + suffix)] = data
    download(settings(f"{server.url}/index.json", tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recordings"]
    assert sorted(path.name for path in (tmp_path / "recordings").iterdir()) == ["download.json", "train"]
    names = {local_name(entry) for entry in ("data/8.0/twice.mp4", *ODD)}
    assert len(names) == len(ODD) + 1
    assert files(tmp_path / "recordings/train").keys() == {name + suffix for name in names for suffix in pairs[0]}
    assert all(len(name) <= MAX_NAME_LENGTH and name.isascii() and name[0] not in ".-" for name in names)
    assert len(report(tmp_path)["refused"]) == report(tmp_path)["refused_count"] == len(HOSTILE)


BROKEN = [
    ("<html>", "not an index: invalid JSON"),
    ("[" * 100_000, "not an index: invalid JSON"),
    ([], "basedir"),
    ({"basedir": 3, "relpaths": ["x.mp4"]}, "basedir"),
    ({"basedir": "https://host/", "relpaths": {}}, "relpaths"),
    ({"basedir": "https://host/", "relpaths": []}, "relpaths"),
    ({"basedir": "file:///etc", "relpaths": ["x.mp4"]}, "has a scheme that this index may not use"),
    ({"basedir": "ftp://host/", "relpaths": ["x.mp4"]}, "has a scheme that this index may not use"),
    ({"basedir": "https://host/?x=", "relpaths": ["x.mp4"]}, "is not a folder"),
    ({"basedir": "https://[host", "relpaths": ["x.mp4"]}, "is not a URL"),
]


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_invalid_indexes_are_refused(tmp_path, content, message):
    with pytest.raises(InvalidIndexError, match=message) as caught:
        parse(tmp_path, content)
    assert WEB in str(caught.value)


def test_size_of_an_index_is_limited(server, tmp_path):
    server.behaviour["/index.json"] = lambda request, data: request.head(200, {"Content-Length": MAX_INDEX_BYTES + 1})
    with pytest.raises(ContractorError, match="too large"):
        download(settings(f"{server.url}/index.json", tmp_path))
    index = parse(tmp_path, {"basedir": "b", "relpaths": [*range(5000), "x.mp4"]})
    assert [pair.relpath for pair in index.pairs] == ["x.mp4"]
    assert [entry for entry, _ in index.refused] == list(map(str, range(1000)))
    assert index.refused_count == 5000
    with pytest.raises(InvalidIndexError, match=r"lists 1,000,001 paths; the limit is 1,000,000"):
        parse(tmp_path, {"basedir": "b", "relpaths": 1_000_001 * [1]})
