"""Translation of actions to key presses and mouse moves on Luanti's screen."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from vpt_jax.actions.minerl import PITCH, YAW
from vpt_jax.envs.luanti.game import DEGREES_PER_PIXEL, HEIGHT, KEYS, WIDTH
from vpt_jax.envs.luanti.screen import Screen

_X_KEYS = {name: key for name, (key, _, _) in KEYS.items()} | {"attack": "Button1", "use": "Button3"}
_GUI_KEYS = {"attack", "use", "sneak"}  # active while a GUI is open
_CLOSING_KEYS = {"inventory", "ESC"}  # close a GUI
_CENTRE = (WIDTH // 2, HEIGHT // 2)  # where the game puts the pointer back when it has turned the view
_MAX_MOVE = np.array([HEIGHT // 2 - 8, WIDTH // 2 - 8])  # pixels from there, down and right
_CLOSING_SECONDS = 1.0  # a GUI that is open after this time has missed its Escape


class Controls:
    """State of keyboard and mouse: keys held, and the pending part of a turn, for which the screen was too small."""

    def __init__(self, screen: Screen):
        self._screen = screen
        self._held: set[str] = set()
        self._requested: set[str] = set()
        self._pending = np.zeros(2)
        self._close_deadline = -np.inf

    def act(self, action: Mapping[str, Any], seconds: float) -> None:
        """Apply an action to keys and mouse, within `seconds`."""
        visible = self._screen.pointer().visible
        requested = {name for name in (*_X_KEYS, "ESC") if action.get(name, 0)}
        pressed, self._requested = requested - self._requested, requested
        if visible:
            self._hold(requested & _GUI_KEYS)
            if pressed & _CLOSING_KEYS:
                self._close_gui()
        else:
            self._close_deadline = -np.inf
            stale = {"inventory"} - pressed - self._held  # it closed a GUI: still held, it must not open one
            self._hold((requested & _X_KEYS.keys()) - stale)
        self._turn(np.asarray(action.get("camera", (0, 0)), np.float64), visible, seconds)

    def release(self) -> None:
        """Release all keys, and drop the pending turn."""
        self._hold(set())
        self._requested = set()
        self._pending[:] = 0

    def tap(self, key: str) -> None:
        """Press and release a key of the keyboard."""
        self._screen.press(key, True)
        self._screen.press(key, False)

    def _hold(self, names: set[str]) -> None:
        for name in sorted(names ^ self._held):
            self._screen.press(_X_KEYS[name], name in names)
        self._held = names

    def _close_gui(self) -> None:
        # Escape, since text fields take letters. A second press before the GUI has closed would open the game's menu.
        if (now := time.monotonic()) > self._close_deadline:
            self._close_deadline = now + _CLOSING_SECONDS
            self.tap("Escape")

    def _turn(self, degrees: Float[np.ndarray, "2"], in_gui: bool, seconds: float) -> None:
        """Turn by an angle (pitch, yaw); the part that the screen has no room or time for follows in later steps."""
        if in_gui:
            self._pending[:] = 0
            self._move_pixels(np.rint(degrees / DEGREES_PER_PIXEL))
            return
        self._pending += degrees
        pixels = np.clip(np.rint(self._pending / DEGREES_PER_PIXEL), -_MAX_MOVE, _MAX_MOVE)
        if pixels.any() and self._wait_for_centre(seconds):
            self._move_pixels(pixels)
            self._pending -= pixels * DEGREES_PER_PIXEL

    def _wait_for_centre(self, seconds: float) -> bool:
        """Wait until the game has read the last move and centred the pointer; returns False after `seconds`.

        A move between the two would be lost. Once the pointer is in the centre, the game has no move left to read.
        """
        deadline = time.monotonic() + seconds
        while self._screen.pointer()[:2] != _CENTRE:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.002)
        return True

    def _move_pixels(self, pixels: Float[np.ndarray, "2"]) -> None:
        if pixels.any():
            self._screen.move(int(pixels[YAW]), int(pixels[PITCH]))
