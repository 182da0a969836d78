"""Parser of OpenAI's indexes of contractor recordings: the list of mp4 and jsonl pairs, and their URLs.

    {"basedir": "https://HOST/FOLDER/", "relpaths": ["data/8.0/NAME.mp4", ...]}

Paths may lack `data/` and `.mp4` (as printed in OpenAI's README), and `basedir` its last slash. Next to every .mp4 is a
.jsonl of the same name. The indexes of recorder versions 6.x to 10.x and those of BASALT have this form. An index is
untrusted input: none of its paths is used as a local path, and none selects a local folder.
"""

import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from vpt_jax.contractor_names import recorder_version
from vpt_jax.system.errors import UserError

MAX_INDEX_BYTES = 64 * 2**20  # OpenAI's indexes have one or two million bytes
MAX_PATHS = 10**6  # in an index; OpenAI's have some thousands
MAX_LISTED_REFUSALS = 1000  # refused entries that are listed individually
MAX_NAME_LENGTH = 120  # characters of a recording's local name
MAX_PATH_LENGTH = 1000  # characters of a path in an index
SUFFIXES = (".jsonl", ".mp4")  # of the two files of a pair, the smaller one first
_OTHER_SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,4}$")  # a file suffix, unlike the end of a name such as "take-8.0"


class InvalidIndexError(UserError, ValueError):
    """The file is not a valid index; the message gives the reason."""


class Pair(NamedTuple):
    """A recording in an index: an .mp4 and a .jsonl file."""

    relpath: str  # of the .mp4 as listed, with or without the suffix
    name: str  # local name of the recording; depends on `relpath` only
    base: str  # URL of the folder that `relpath` is relative to

    def url(self, suffix: str) -> str:
        """URL of one of its files."""
        return self.base + quote(self.relpath.removesuffix(".mp4") + suffix)


class Index(NamedTuple):
    """Pairs of an index in its order, and its refused entries."""

    pairs: list[Pair]
    refused: list[tuple[str, str]]  # (entry, reason), the first `MAX_LISTED_REFUSALS`
    refused_count: int  # all


def parse_index(path: Path, url: str) -> Index:
    """Parses an index that was downloaded from `url` to `path`. Raises `InvalidIndexError`."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InvalidIndexError(f"{url} is not an index: invalid JSON ({error})"[:300]) from error
    if not isinstance(content, dict) or not isinstance(content.get("basedir"), str):
        raise InvalidIndexError(f'{url} is not an index: it must be an object with a string "basedir"')
    if not isinstance(content.get("relpaths"), list) or not content["relpaths"]:
        raise InvalidIndexError(f'{url} is not an index: "relpaths" must be a non-empty list of paths')
    if len(content["relpaths"]) > MAX_PATHS:
        raise InvalidIndexError(
            f"{url} lists {len(content['relpaths']):,} paths; the limit is {MAX_PATHS:,}: split the index"
        )
    return _collect_pairs(content["relpaths"], _base_url(content["basedir"], url))


def _collect_pairs(entries: list[Any], base: str) -> Index:
    pairs: dict[str, Pair] = {}
    refused, count = [], 0
    for entry in entries:
        name = "" if (problem := _entry_problem(entry)) else local_name(entry)
        if name in pairs:
            problem = f"duplicate, or of the same name as {pairs[name].relpath}"
        if not problem:
            pairs[name] = Pair(entry, name, base)
        elif (count := count + 1) <= MAX_LISTED_REFUSALS:
            refused.append((repr(entry)[:MAX_PATH_LENGTH], problem))
    return Index(list(pairs.values()), refused, count)


def _base_url(basedir: str, url: str) -> str:
    """URL of the folder that paths are relative to; a relative `basedir` is resolved against the URL of the index.

    An index from the web may not refer to local files. Raises `InvalidIndexError`.
    """
    try:
        base = urljoin(url, basedir or ".").rstrip("/") + "/"
        scheme, host = urlsplit(base).scheme, urlsplit(base).hostname
    except ValueError as error:
        raise InvalidIndexError(f"{url}: basedir {basedir[:200]!r} is not a URL: {error}") from error
    if scheme not in (("http", "https") if url.startswith("http") else ("http", "https", "file")):
        raise InvalidIndexError(f"{url}: basedir {basedir[:200]!r} has a scheme that this index may not use")
    if (scheme != "file" and not host) or "?" in base or "#" in base:
        raise InvalidIndexError(f"{url}: basedir {basedir[:200]!r} is not a folder")
    return base


def _entry_problem(entry: Any) -> str:
    """Reason for refusing an entry of an index, or ""."""
    if not isinstance(entry, str):
        return "not a string"
    if len(entry) > MAX_PATH_LENGTH:
        return f"longer than {MAX_PATH_LENGTH} characters"
    if not entry.isprintable() or "\\" in entry:
        return "unprintable characters or backslashes in the path"
    if entry.startswith("/") or any(part in ("", ".", "..") for part in entry.split("/")) or ":" in entry:
        return "not a path within the index's folder"
    name = PurePosixPath(entry).name
    if name == ".mp4" or (_OTHER_SUFFIX.search(name) and not name.endswith(".mp4")):
        return "not an .mp4 file"
    return ""


def local_name(relpath: str) -> str:
    """Local name of a recording: `8.0_NAME` for "data/8.0/NAME.mp4", with or without "data/" and ".mp4".

    Names of different recordings differ: a digest of the path is appended if the path has another form, is long, or has
    characters other than letters, digits, ".", "-" and "_". A folder that is a recorder version stays the prefix, which
    `contractor_names.recorder_version` parses.
    """
    path = relpath.removesuffix(".mp4").removeprefix("data/")
    plain = re.fullmatch(r"([A-Za-z0-9.-]+)/([A-Za-z0-9][A-Za-z0-9._-]*)", path)
    if plain and len(name := f"{plain[1]}_{plain[2]}") <= MAX_NAME_LENGTH and not name.startswith("."):
        return name
    digest = hashlib.sha256(f"{relpath.removesuffix('.mp4')}.mp4".encode()).hexdigest()[:16]
    if version := recorder_version(PurePosixPath(path)):
        path = f"{version}/{PurePosixPath(path).name.removeprefix(f'{version}_')}"
    safe = re.sub(r"[^A-Za-z0-9.-]+", "_", path).lstrip("._-")
    return f"{safe[: MAX_NAME_LENGTH - 17]}-{digest}"
