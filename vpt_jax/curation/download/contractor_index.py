"""OpenAI's indexes of contractor recordings: which pairs of mp4 and jsonl there are, and where.

    {"basedir": "https://HOST/FOLDER/", "relpaths": ["data/8.0/NAME.mp4", ...]}

Paths may come without `data/` and without `.mp4` (so OpenAI's README prints them), `basedir` without its last slash.
Beside every .mp4 lies a .jsonl of the same name. The indexes of recorder versions 6.x to 10.x and those of BASALT are
all of this kind. An index comes from elsewhere, so no path of it is trusted: what it lists never decides a folder.
"""

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from vpt_jax.contractor_names import recorder_version

MAX_BYTES = 64 * 2**20  # of an index; OpenAI's have one or two million
MOST_PATHS = 10**6  # in an index; OpenAI's have some thousands
MOST_REFUSED = 1000  # entries that are told one by one
LONGEST_NAME = 120  # characters, of a recording
LONGEST_PATH = 1000  # characters, in an index
SUFFIXES = (".jsonl", ".mp4")  # of a pair's halves, the smaller first
_OTHER_FILE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")  # a suffix, unlike the rest of a name such as "take-8.0"


class BrokenIndexError(ValueError):
    """A file that is no index; the message says why."""


class Pair(NamedTuple):
    """A recording that an index lists."""

    relpath: str  # of the .mp4, as listed: the suffix may be missing
    name: str  # of the recording here; follows from `relpath` alone
    base: str  # URL of the folder that `relpath` is in

    def url(self, suffix: str) -> str:
        """Where one of its halves is."""
        return self.base + quote(self.relpath.removesuffix(".mp4") + suffix)


class Index(NamedTuple):
    """The pairs of an index in its order, and what it lists that cannot be taken."""

    pairs: list[Pair]
    refused: list[tuple[str, str]]  # (entry, why), the first `MOST_REFUSED`
    refused_count: int  # all


def parse_index(path: Path, url: str) -> Index:
    """The index in a file that was fetched from a URL. Raises `BrokenIndexError`."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BrokenIndexError(f"{url} is no index: it is no JSON ({error})"[:300]) from error
    if not isinstance(content, dict) or not isinstance(content.get("basedir"), str):
        raise BrokenIndexError(f'{url} is no index: it must be an object with a text "basedir"')
    if not isinstance(content.get("relpaths"), list) or not content["relpaths"]:
        raise BrokenIndexError(f'{url} is no index: "relpaths" must be a list of paths, and not an empty one')
    if len(content["relpaths"]) > MOST_PATHS:
        raise BrokenIndexError(f"{url} lists {len(content['relpaths']):,} paths, and may list {MOST_PATHS:,}: split it")
    return _sort(content["relpaths"], _base(content["basedir"], url))


def _sort(entries: list[Any], base: str) -> Index:
    pairs: dict[str, Pair] = {}
    refused, count = [], 0
    for entry in entries:
        name = "" if (problem := _problem(entry)) else local_name(entry)
        if name in pairs:
            problem = f"a second time, or of the same name as {pairs[name].relpath}"
        if not problem:
            pairs[name] = Pair(entry, name, base)
        elif (count := count + 1) <= MOST_REFUSED:
            refused.append((repr(entry)[:LONGEST_PATH], problem))
    return Index(list(pairs.values()), refused, count)


def _base(basedir: str, url: str) -> str:
    """URL of the folder that paths start from; a relative one is seen from the index. An index of the web stays there.

    Raises `BrokenIndexError`.
    """
    try:
        base = urljoin(url, basedir or ".").rstrip("/") + "/"
        scheme, host = urlsplit(base).scheme, urlsplit(base).hostname
    except ValueError as error:
        raise BrokenIndexError(f"{url}: basedir {basedir[:200]!r} is no URL: {error}") from error
    if scheme not in (("http", "https") if url.startswith("http") else ("http", "https", "file")):
        raise BrokenIndexError(f"{url}: basedir {basedir[:200]!r} is not one that an index there may have")
    if (scheme != "file" and not host) or "?" in base or "#" in base:
        raise BrokenIndexError(f"{url}: basedir {basedir[:200]!r} is no folder")
    return base


def _problem(entry: Any) -> str:
    """Why an entry of an index cannot be taken, or ""."""
    if not isinstance(entry, str):
        return "it is no text"
    if len(entry) > LONGEST_PATH:
        return f"it has more than {LONGEST_PATH} characters"
    if not entry.isprintable() or "\\" in entry:
        return "it has characters that no path should have"
    if entry.startswith("/") or any(part in ("", ".", "..") for part in entry.split("/")) or ":" in entry:
        return "it is no path in the index's folder"
    name = PurePosixPath(entry).name
    if name == ".mp4" or (_OTHER_FILE.search(name) and not name.endswith(".mp4")):
        return "it is no .mp4"
    return ""


def local_name(relpath: str) -> str:
    """The local name of a recording: `8.0_NAME` for "data/8.0/NAME.mp4", with or without "data/" and ".mp4".

    Others are never called the same: where the path is of another form, long, or has other characters than letters,
    digits, ".", "-" and "_", a digest of it is added. A folder that is a recorder version stays in front, where
    `contractor_names.recorder_version` looks for it.
    """
    path = relpath.removesuffix(".mp4").removeprefix("data/")
    plain = re.fullmatch(r"([A-Za-z0-9.-]+)/([A-Za-z0-9][A-Za-z0-9._-]*)", path)
    if plain and len(name := f"{plain[1]}_{plain[2]}") <= LONGEST_NAME and not name.startswith("."):
        return name
    digest = hashlib.sha256(f"{relpath.removesuffix('.mp4')}.mp4".encode()).hexdigest()[:16]
    if version := recorder_version(PurePosixPath(path)):
        path = f"{version}/{PurePosixPath(path).name.removeprefix(f'{version}_')}"
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", path).lstrip("._-")
    return f"{safe[: LONGEST_NAME - 17]}-{digest}"
