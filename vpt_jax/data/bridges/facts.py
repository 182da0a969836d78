"""Facts of a recording, in NAME.json beside it: who played, under which licence, whether it may be trained on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vpt_jax.recording import BrokenRecordingError
from vpt_jax.system.printable import printable

_MAX_BYTES = 2**20
_MAX_TEXT = 2000
_TEXTS = ("player", "session", "world", "game", "licence", "consent", "text", "notes")
FIELDS = (*_TEXTS, "start", "mouse_factor", "trainable", "excluded")


def facts_file(recording: Path) -> Path:
    """Path of the facts of a recording that is a folder, or has no suffix: NAME.json."""
    return recording.with_name(recording.name + ".json")


def facts_file_of_file(recording: Path) -> Path:
    """Path of the facts of a recording that is the file NAME.SUFFIX: NAME.json."""
    return recording.with_suffix(".json")


def read_facts(path: Path) -> dict[str, Any]:
    """Reads and validates NAME.json; an absent file has no facts.

    Raises:
        BrokenRecordingError: the file is no such object; the detail names the field and what it must be.
    """
    if not path.exists():
        return {}
    return check_facts(path, read_json_object(path))


def check_facts(path: Path, facts: Any) -> dict[str, Any]:
    """Validates facts, and returns them; `path`: their file, for errors. Raises as `read_facts`."""
    if not isinstance(facts, dict):
        raise BrokenRecordingError(path, "bad value", "the facts are not an object")
    if unknown := set(facts) - set(FIELDS):
        named = printable(", ".join(sorted(unknown)), length=200)
        detail = f"unknown fields {named}; known are {', '.join(FIELDS)} (`notes` takes any text)"
        raise BrokenRecordingError(path, "bad value", detail)
    for field, value in facts.items():
        if problem := _problem(field, value):
            raise BrokenRecordingError(path, "bad value", f"`{field}` must be {problem}")
    return facts


def facts_to_pass_on(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a dataset's episode that also hold for a copy of it: valid contents of NAME.json."""
    kept = (*_TEXTS, "trainable")
    return {field: facts[field] for field in kept if field in facts and not _problem(field, facts[field])}


def _problem(field: str, value: Any) -> str:
    if field in _TEXTS:
        return "" if isinstance(value, str) and len(value) <= _MAX_TEXT else f"a text of up to {_MAX_TEXT} characters"
    if field == "trainable":
        return "" if isinstance(value, bool) else "true or false"
    if field == "mouse_factor":
        return "" if _is_number(value) and 0 < value < 1e6 else "a number above 0"
    if field == "start":
        return "" if _is_number(value) and abs(value) < 1e12 else "a number"
    pairs: list[Any] = value if isinstance(value, list) else [None]
    valid = all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in pairs)
    return "" if valid and all(low <= high for low, high in pairs) else "a list of [from, to] in seconds"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e300 < value < 1e300


def read_json_object(path: Path, limit: int = _MAX_BYTES) -> dict[str, Any]:
    """Reads a JSON object from a regular file of at most `limit` bytes.

    Raises:
        BrokenRecordingError: the file is missing, too large, or holds anything else.
    """
    if not path.is_file():  # opening a named pipe would block
        raise BrokenRecordingError(path, "unreadable actions", "there is no such file")
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
        values = json.loads(data) if len(data) <= limit else None
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenRecordingError(path, "bad json", str(error)) from error
    if not isinstance(values, dict):
        detail = f"larger than {limit:,} bytes" if len(data) > limit else "it is not an object"
        raise BrokenRecordingError(path, "bad json", detail)
    return values
