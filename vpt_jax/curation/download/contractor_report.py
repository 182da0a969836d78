"""Download report RECORDINGS/download.json: missing pairs of an index and why; with a log that survives a kill."""

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from vpt_jax.curation.download.contractor_index import SUFFIXES, Index, Pair
from vpt_jax.curation.download.transfer import Outcome
from vpt_jax.system.atomic_files import write_text

PERMANENT_STATES = ("gone", "broken", "too large")  # states that a retry is unlikely to change


class DownloadReport:
    """Missing pairs by their local name; thread-safe.

    Args:
        path: of the report; its entries about pairs of other indexes are kept.
        log: JSON Lines file of the entries of this run, until the report is written.

    Raises:
        ValueError: the file at `path` is not such a report.
    """

    def __init__(self, path: Path, log: Path):
        self._path, self._log, self._lock = path, log, threading.Lock()
        self.missing: dict[str, dict[str, str]] = {entry["name"]: entry for entry in _read(path) + _read_log(log)}

    def is_permanent(self, pair: Pair) -> bool:
        """True if a pair is permanently unavailable at the URL that the index lists."""
        entry = self.missing.get(pair.name)
        return entry is not None and entry["state"] in PERMANENT_STATES and entry["url"] in map(pair.url, SUFFIXES)

    def add(self, pair: Pair, url: str, outcome: Outcome) -> None:
        """Records the reason for which a pair is missing, in the log too."""
        entry = {"name": pair.name, "url": url, **outcome._asdict()}
        with self._lock, self._log.open("a") as file:
            file.write(f"\n{json.dumps(entry)}\n")  # a kill may have truncated the line before
            self.missing[pair.name] = entry

    def remove(self, pair: Pair) -> None:
        """Removes the entry of a pair, which is not missing any more."""
        with self._lock:
            self.missing.pop(pair.name, None)

    def write(self, url: str, index: Index, complete: int) -> None:
        """Writes the report: number of complete pairs of an index, all missing pairs, refused entries of the index."""
        report = {
            "index": url,
            "pairs": len(index.pairs),
            "here": complete,
            "missing": [self.missing[name] for name in sorted(self.missing)],
            "refused_count": index.refused_count,
            "refused": [{"path": entry, "why": reason} for entry, reason in index.refused],
        }
        write_text(self._path, json.dumps(report, indent=2) + "\n")
        self._log.unlink(missing_ok=True)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [_checked(entry) for entry in json.loads(path.read_bytes())["missing"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a download report: move it away ({error!r})") from error


def _read_log(log: Path) -> list[dict[str, Any]]:
    entries = []
    for line in log.read_bytes().splitlines() if log.exists() else []:
        with suppress(ValueError):  # blank or truncated
            entries.append(_checked(json.loads(line)))
    return entries


def _checked(entry: Any) -> dict[str, Any]:
    return {field: entry[field] for field in ("name", "url", "state", "why")}
