"""Escapes control characters in text that strangers wrote, before it reaches a terminal.

Names of files, reason phrases of web servers, texts in pickles and the output of games may hold escape sequences, which
terminals obey: they set titles, move the cursor, hide lines, or answer as if typed. `printable` shows them instead.
"""

import re
import sys
from typing import Any, TextIO

# Control characters (C0, DEL, C1), zero-width and bidirectional marks, line separators, half characters (of names that
# are not UTF-8), the byte order mark and tags. Letters of all scripts are left as they are.
_HIDDEN = (
    "\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff\U000e0000-\U000e007f"
)
_ALL = re.compile(f"[{_HIDDEN}]")
_WITHIN_LINES = re.compile(f"(?![\n\t])[{_HIDDEN}]")
_WITHIN_BARS = re.compile(f"(?![\n\t\r])[{_HIDDEN}]")


def printable(text: object, lines: bool = False, length: int | None = None) -> str:
    r"""The text with control characters as escapes, such as `\x1b`.

    Args:
        text: anything; `str` of it is taken.
        lines: keep line breaks and tabs.
        length: keep this many characters at most, then "...".
    """
    whole = str(text)
    if length is not None and len(whole) > length:
        whole = whole[:length] + "..."
    return (_WITHIN_LINES if lines else _ALL).sub(_escape, whole)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class _Escaping:
    """A text stream that escapes the characters of a pattern."""

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
    """Makes standard output and error of this process escape control characters, whoever prints them."""
    if not isinstance(sys.stdout, _Escaping):
        sys.stdout = _Escaping(sys.stdout, _WITHIN_LINES)  # type: ignore[assignment]
    if not isinstance(sys.stderr, _Escaping):
        sys.stderr = _Escaping(sys.stderr, _WITHIN_BARS)  # type: ignore[assignment]
