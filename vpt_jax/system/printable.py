"""Escapes control characters in untrusted text before it reaches a terminal (terminal escape injection).

File names, reason phrases of web servers, texts in pickles and the output of games may contain escape sequences, which
a terminal executes: they set titles, move the cursor, hide lines, or inject input. `printable` makes them visible.
"""

import re
import sys
from typing import Any, TextIO

# Control characters (C0, DEL, C1), zero-width and bidirectional marks, line separators, half characters (of names that
# are not UTF-8), the byte order mark and tags. Letters of all scripts are left as they are.
_CONTROL_CHARACTERS = (
    "\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f"
)
_ALL = re.compile(f"[{_CONTROL_CHARACTERS}]")
_EXCEPT_LINES = re.compile(f"(?![\n\t])[{_CONTROL_CHARACTERS}]")
_EXCEPT_PROGRESS_BARS = re.compile(f"(?![\n\t\r])[{_CONTROL_CHARACTERS}]")


def printable(text: object, lines: bool = False, length: int | None = None) -> str:
    r"""Escape control characters in text, such as `\x1b`.

    Args:
        text: any object; converted by `str`.
        lines: keep line breaks and tabs.
        length: truncate to this many characters, followed by "...".
    """
    whole = str(text)
    if length is not None and len(whole) > length:
        whole = whole[:length] + "..."
    return (_EXCEPT_LINES if lines else _ALL).sub(_escape, whole)


def sanitize(text: Any, length: int) -> str:
    """The first `length` characters of a text, unprintable ones replaced by spaces; "" if it is not a string."""
    if not isinstance(text, str):
        return ""
    return "".join(letter if letter.isprintable() else " " for letter in text[:length])


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class _EscapingStream:
    """A text stream that escapes the characters matched by a pattern."""

    def __init__(self, stream: TextIO, escaped: re.Pattern[str]):
        self._stream, self._escaped = stream, escaped

    def write(self, text: str) -> int:
        return self._stream.write(self._escaped.sub(_escape, text))

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def escape_output() -> None:
    """Make stdout and stderr of this process escape control characters, whatever code prints them."""
    if not isinstance(sys.stdout, _EscapingStream):
        sys.stdout = _EscapingStream(sys.stdout, _EXCEPT_LINES)  # type: ignore[assignment]
    if not isinstance(sys.stderr, _EscapingStream):
        sys.stderr = _EscapingStream(sys.stderr, _EXCEPT_PROGRESS_BARS)  # type: ignore[assignment]
