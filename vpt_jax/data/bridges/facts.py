"""Facts of a recording in a JSON file next to it: who played, under which licence, whether it may be trained on."""

import json
from pathlib import Path
from typing import Any

from vpt_jax.recording import BrokenRecordingError

_MAX_BYTES = 2**20
_MAX_TEXT = 2000
_TEXTS = ("player", "session", "world", "game", "licence", "consent", "text", "notes")
_NUMBERS = ("start", "mouse_factor")
FIELDS = (*_TEXTS, *_NUMBERS, "trainable", "excluded")


def facts_file(recording: Path) -> Path:
    """Path of a recording's facts: NAME.json."""
    return recording.with_name(recording.name + ".json")


def read_facts(path: Path) -> dict[str, Any]:
    """Reads and validates NAME.json; an absent file has no facts.

    Raises:
        BrokenRecordingError: the file is no such object; the detail names the field and what it must be.
    """
    if not path.exists():
        return {}
    facts = read_json_object(path)
    if unknown := set(facts) - set(FIELDS):
        raise BrokenRecordingError(
            path,
            "bad value",
            f"unknown fields {', '.join(sorted(unknown))}; known are {', '.join(FIELDS)} (`notes` takes any text)",
        )
    for field, value in facts.items():
        if problem := _problem(field, value):
            raise BrokenRecordingError(path, "bad value", f"`{field}` must be {problem}")
    return facts


def _problem(field: str, value: Any) -> str:
    if field in _TEXTS:
        return "" if isinstance(value, str) and len(value) <= _MAX_TEXT else f"a text of up to {_MAX_TEXT} characters"
    if field == "trainable":
        return "" if isinstance(value, bool) else "true or false"
    if field in _NUMBERS:
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
