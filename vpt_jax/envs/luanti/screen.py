"""Virtual X screen (Xvfb) for one program: screenshots, keyboard and mouse input."""

import os
import shutil
import subprocess
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from Xlib import XK, X
from Xlib.display import Display
from Xlib.ext import xfixes, xtest


class Pointer(NamedTuple):
    """Mouse pointer: its position in pixels from the left and from the top, and its visibility."""

    x: int
    y: int
    visible: bool


class Screen:
    """Virtual screen of `height` x `width` pixels, on a display of its own.

    Raises:
        RuntimeError: Xvfb does not start.
    """

    def __init__(self, height: int, width: int, mark: str):
        """`mark` is put on the command line of Xvfb, where the watchdog finds it."""
        self._size = height, width
        self.server, number = _start_server(height, width, mark)
        self.name = f":{number}"
        self._display = Display(self.name)
        self._display.xfixes_query_version()  # required before requests about the pointer
        self._display.change_keyboard_control(auto_repeat_mode=X.AutoRepeatModeOff)
        self._root = self._display.screen().root

    def focus_window(self) -> bool:
        """Set the keyboard focus to the newest window; returns False if there is none yet."""
        windows = [window for window in self._root.query_tree().children if _is_shown(window)]
        if windows:
            self._display.set_input_focus(windows[-1], X.RevertToPointerRoot, X.CurrentTime)
            self._display.sync()
        return bool(windows)

    def press(self, key: str, down: bool) -> None:
        """Press or release a key by the name of its X keysym, "w" or "Shift_L", or a button, "Button1" to "Button3"."""
        if key.startswith("Button"):
            event, code = (X.ButtonPress if down else X.ButtonRelease), int(key.removeprefix("Button"))
        else:
            event = X.KeyPress if down else X.KeyRelease
            code = self._display.keysym_to_keycode(XK.string_to_keysym(key))
        xtest.fake_input(self._display, event, code)
        self._display.flush()

    def move(self, right: int, down: int) -> None:
        """Move the mouse by a number of pixels; the pointer stops at the edges."""
        xtest.fake_input(self._display, X.MotionNotify, detail=True, x=right, y=down)
        self._display.flush()

    def pointer(self) -> Pointer:
        """Returns the current position and visibility of the mouse pointer."""
        position = self._root.query_pointer()
        image = xfixes.get_cursor_image(self._display, self._root).cursor_image
        return Pointer(
            position.root_x, position.root_y, any(pixel >> 24 for pixel in image)
        )  # hidden: transparent image

    def screenshot(self) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the current content of the screen as RGB, without the pointer."""
        height, width = self._size
        image = self._root.get_image(0, 0, width, height, X.ZPixmap, 0xFFFFFFFF)
        return np.frombuffer(image.data, np.uint8).reshape(height, width, 4)[..., 2::-1]  # from BGRX

    def disconnect(self) -> None:
        """Close the connection to the X server, which the watchdog ends by its mark."""
        self._display.close()


def _is_shown(window) -> bool:
    return window.get_attributes().map_state == X.IsViewable


def _start_server(height: int, width: int, mark: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start Xvfb on a free display of its own choice; returns the process and the display's number."""
    reading, writing = os.pipe()
    options = ["-displayfd", str(writing), "-screen", "0", f"{width}x{height}x24", "-nolisten", "tcp"]
    server = subprocess.Popen(  # noqa: S603
        [f"Xvfb ({mark})", *options],  # its name in process lists
        executable=shutil.which("Xvfb"), pass_fds=[writing], start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as pipe:
        number = pipe.readline().strip()  # comes when the server is ready, or empty when it has ended
    if not number:
        server.wait()
        raise RuntimeError(f"Xvfb did not start (exit status {server.returncode})")
    return server, int(number)
