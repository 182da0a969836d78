"""From actions to the keys and the mouse of Luanti's screen."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vpt_jax.actions import PITCH, YAW
from vpt_jax.envs.luanti.game import DEGREES_PER_PIXEL, HEIGHT, KEYS, WIDTH
from vpt_jax.envs.luanti.screen import Screen

_X_KEYS = {name: key for name, (key, _, _) in KEYS.items()} | {"attack": "Button1", "use": "Button3"}
_GUI_KEYS = {"attack", "use", "sneak"}  # what acts while a GUI is open
_CLOSING_KEYS = {"inventory", "ESC"}  # what closes it
_CENTRE = (WIDTH // 2, HEIGHT // 2)  # where the game puts the pointer back when it has turned the view
_REACH = np.array([HEIGHT // 2 - 8, WIDTH // 2 - 8])  # pixels it can go from there, down and right
_CLOSING_SECONDS = 1.0  # a GUI that is open after this time has missed its Escape


class Controls:
    """The hand on keyboard and mouse: it knows what is held, and what of a turn the screen had no room for."""

    def __init__(self, screen: Screen):
        self._screen = screen
        self._held: set[str] = set()
        self._wanted: set[str] = set()
        self._owed = np.zeros(2)
        self._close_by = -np.inf

    def act(self, action: Mapping[str, Any], seconds: float) -> None:
        """Bring keys and mouse to what the action says, within so many seconds."""
        visible = self._screen.pointer().visible
        wanted = {name for name in (*_X_KEYS, "ESC") if action.get(name, 0)}
        pressed, self._wanted = wanted - self._wanted, wanted
        if visible:
            self._hold(wanted & _GUI_KEYS)
            if pressed & _CLOSING_KEYS:
                self._close_gui()
        else:
            self._close_by = -np.inf
            stale = {"inventory"} - pressed - self._held  # it closed a GUI: still held, it must not open one
            self._hold((wanted & _X_KEYS.keys()) - stale)
        self._move(np.asarray(action.get("camera", (0, 0)), np.float64), visible, seconds)

    def release(self) -> None:
        """Let go of everything."""
        self._hold(set())
        self._wanted = set()
        self._owed[:] = 0

    def tap(self, key: str) -> None:
        """Press a key of the keyboard and let go of it."""
        self._screen.press(key, True)
        self._screen.press(key, False)

    def _hold(self, names: set[str]) -> None:
        for name in sorted(names ^ self._held):
            self._screen.press(_X_KEYS[name], name in names)
        self._held = names

    def _close_gui(self) -> None:
        # Escape, as text fields take letters. Pressed again before the GUI is gone, it would open the game's menu.
        if (now := time.monotonic()) > self._close_by:
            self._close_by = now + _CLOSING_SECONDS
            self.tap("Escape")

    def _move(self, degrees: Float[np.ndarray, "2"], in_gui: bool, seconds: float) -> None:
        """Move the mouse by an angle; what the screen has no room or time for follows in later steps."""
        if in_gui:
            self._owed[:] = 0
            self._slide(np.rint(degrees / DEGREES_PER_PIXEL))
            return
        self._owed += degrees
        pixels = np.clip(np.rint(self._owed / DEGREES_PER_PIXEL), -_REACH, _REACH)
        if pixels.any() and self._wait_for_centre(seconds):
            self._slide(pixels)
            self._owed -= pixels * DEGREES_PER_PIXEL

    def _wait_for_centre(self, seconds: float) -> bool:
        """Wait until the game has read the last move and put the pointer back; False if it takes longer than this.

        A move that falls between the two is lost. Where the pointer is back, the game has nothing to put back.
        """
        deadline = time.monotonic() + seconds
        while self._screen.pointer()[:2] != _CENTRE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def _slide(self, pixels: Float[np.ndarray, "2"]) -> None:
        if pixels.any():
            self._screen.move(int(pixels[YAW]), int(pixels[PITCH]))
