"""What of an index is not here, and why: RECORDINGS/download.json, and a log of it that outlives a kill."""

import json
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from vpt_jax.curation.download.contractor_index import SUFFIXES, Index, Pair
from vpt_jax.curation.download.transfer import Outcome
from vpt_jax.system.atomic_files import write_text

SETTLED = ("gone", "broken", "too large")  # states that asking again would hardly change


class Report:
    """Notes about pairs by their name here; safe to share between threads.

    Args:
        path: of the report; what it says of other indexes' pairs is kept.
        log: where notes are kept until the report is written.
    """

    def __init__(self, path: Path, log: Path):
        self._path, self._log, self._lock = path, log, threading.Lock()
        self.notes: dict[str, dict[str, str]] = {note["name"]: note for note in _read(path) + _read_log(log)}

    def is_settled(self, pair: Pair) -> bool:
        """Whether a pair is known not to be had, from where the index says it is."""
        note = self.notes.get(pair.name)
        return note is not None and note["state"] in SETTLED and note["url"] in map(pair.url, SUFFIXES)

    def note(self, pair: Pair, url: str, outcome: Outcome) -> None:
        """Keeps in mind why a pair is not here."""
        note = {"name": pair.name, "url": url, **outcome._asdict()}
        with self._lock, self._log.open("a") as file:
            file.write(f"\n{json.dumps(note)}\n")  # the line before may have been cut short by a kill
            self.notes[pair.name] = note

    def forget(self, pair: Pair) -> None:
        """A pair is here, whatever was noted before."""
        with self._lock:
            self.notes.pop(pair.name, None)

    def write(self, url: str, index: Index, here: int) -> None:
        """Writes the report: how much of an index is here, all notes, and what the index lists in vain."""
        report = {
            "index": url,
            "pairs": len(index.pairs),
            "here": here,
            "missing": [self.notes[name] for name in sorted(self.notes)],
            "refused_count": index.refused_count,
            "refused": [{"path": entry, "why": why} for entry, why in index.refused],
        }
        write_text(self._path, json.dumps(report, indent=2) + "\n")
        self._log.unlink(missing_ok=True)


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        return [_checked(note) for note in json.loads(path.read_bytes())["missing"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no report of a download: move it away ({error!r})") from error


def _read_log(log: Path) -> list[dict[str, Any]]:
    notes = []
    for line in log.read_bytes().splitlines() if log.exists() else []:
        with suppress(ValueError):  # blank, or cut short
            notes.append(_checked(json.loads(line)))
    return notes


def _checked(note: Any) -> dict[str, Any]:
    return {field: note[field] for field in ("name", "url", "state", "why")}
