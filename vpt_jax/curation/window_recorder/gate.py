"""Decision on what is recorded: which events become rows of the table, and when the recording pauses.

It pauses while the window has not the focus, from a key that opens a text field (chat) to Enter or Escape, and from the
pause key to its next press. What happens in a pause is forgotten: no event of it is kept, nor is any key outside the
list ever. Held keys are released where a pause begins, since their release may go elsewhere.
"""

from collections.abc import Iterator
from typing import NamedTuple

from vpt_jax.data.bridges.key_names import MOUSE_AXES


class Input(NamedTuple):
    """One event of the X server: `kind` is "press", "release", "move", "focus" (1: gained, 0: lost)."""

    time: float  # seconds, on the recorder's clock
    kind: str
    name: str = ""
    value: float = 0.0


class Row(NamedTuple):
    """One row of the event table, with its time in seconds on the recorder's clock."""

    time: float
    event: str
    name: str = ""
    value: float | None = None


TEXT_ENDS = ("enter", "keypad_enter", "escape")


class Gate:
    """State of focus, text field, pause key and held keys.

    Args:
        keys: keys and mouse buttons that may be recorded.
        text_keys: keys that open a text field in the game.
        pause_key: key that pauses and resumes by hand; "" for none.
    """

    def __init__(self, keys: tuple[str, ...], text_keys: tuple[str, ...] = (), pause_key: str = ""):
        self._keys, self._text_keys, self._pause_key = frozenset(keys), frozenset(text_keys), pause_key
        self._focused = self._in_text = self._by_hand = False
        self._held: set[str] = set()

    @property
    def paused(self) -> bool:
        """True while nothing may be recorded, frames neither."""
        return not self._focused or self._in_text or self._by_hand

    @property
    def held(self) -> tuple[str, ...]:
        """Keys whose press is recorded and whose release is not yet, sorted."""
        return tuple(sorted(self._held))

    def feed(self, event: Input) -> Iterator[Row]:
        """Take the next event; yields the rows that it makes."""
        before = self.paused
        if event.kind == "focus":
            self._focused = bool(event.value)
            self._in_text = self._in_text and self._focused  # most games close their chat
        elif event.kind == "press" and self._focused:
            self._switch(event.name)
        if self.paused and not before:
            yield from (Row(event.time, "release", name) for name in self.held)
            yield Row(event.time, "pause")
            self._held.clear()
        elif before and not self.paused:
            yield Row(event.time, "resume")
        elif not self.paused:
            yield from self._record(event)

    def _switch(self, name: str) -> None:
        """Change of state by a key that is pressed: pause key, or a text field that opens or closes."""
        if name and name == self._pause_key:
            self._by_hand = not self._by_hand
        elif self._in_text:
            self._in_text = name not in TEXT_ENDS
        elif not self._by_hand:
            self._in_text = name in self._text_keys

    def _record(self, event: Input) -> Iterator[Row]:
        if event.kind == "move" and event.name in MOUSE_AXES and event.value:
            yield Row(event.time, "move", event.name, event.value)
        elif event.kind == "press" and event.name in self._keys and event.name not in self._held:
            self._held.add(event.name)
            yield Row(event.time, "press", event.name)
        elif event.kind == "release" and event.name in self._held:
            self._held.remove(event.name)
            yield Row(event.time, "release", event.name)
