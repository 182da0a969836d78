"""An X11 window that is recorded: its pictures, focus, and the raw input of keyboard and mouse while it has the focus.

Pictures show the window alone, whatever covers it (Composite extension). Input comes from XInput 2: raw events have the
server's time, movement in counts of the mouse also where the game holds the pointer, and no movement by which a game
puts it back. The server sends them for all windows alike, so they are asked for only while this one has the focus.
"""

import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vpt_jax.curation.window_recorder import WindowRecordError
from vpt_jax.curation.window_recorder.clock import ServerClock
from vpt_jax.curation.window_recorder.gate import Input
from vpt_jax.curation.window_recorder.keyboard import BUTTONS, CHECKED, CODES, PLACES, WHEEL_BUTTONS
from vpt_jax.data.bridges.key_names import MOUSE_WHEEL, MOUSE_X, MOUSE_Y

try:
    from Xlib import XK, X, Xatom
    from Xlib.display import Display
    from Xlib.error import BadDrawable, BadMatch, BadWindow, ConnectionClosedError, DisplayError
    from Xlib.ext import composite, xinput
except ModuleNotFoundError as error:
    raise WindowRecordError(f"{error}. Install it: pip install -c constraints.txt -e '.[window]'") from error

_RAW = (
    xinput.RawKeyPressMask | xinput.RawKeyReleaseMask | xinput.RawButtonPressMask | xinput.RawButtonReleaseMask
    | xinput.RawMotionMask
)  # fmt: skip
_FOCUS = xinput.FocusInMask | xinput.FocusOutMask
_INFERIOR, _BY_POINTER = 2, (5, 6, 7)  # details of focus events: within the window; of the pointer's window
_SYNC_SECONDS = 5.0
_DEPTHS = (24, 32)  # with transparency
_GONE = (BadWindow, BadDrawable, ConnectionClosedError)


class Picture(NamedTuple):
    """RGB content of the window, and its time in seconds on the monotonic clock."""

    time: float
    frame: UInt8[np.ndarray, "h w 3"]


class RecordedWindow:
    """Connection to the X server that holds the window.

    Args:
        display: name of the display, such as ":0"; "" for that of the environment.
        number: of the window, as `find_window` returns.

    Raises:
        WindowRecordError: no display, an extension is missing, or the key codes are others.
    """

    def __init__(self, display: str, number: int):
        self._display = connect(display)
        self._display.set_error_handler(lambda *_: None)  # of requests without a reply: the window has closed
        self._window = self._display.create_resource_object("window", number)
        self._root = self._display.screen().root
        self._clock, self._synced = ServerClock(), -float("inf")
        self._waiting: list[Any] = []  # events that came while another one was awaited
        self._focused = self.gone = False
        self._absolute: dict[int, bool] = {}  # by device
        _check_server(self._display)
        try:
            self._window.composite_redirect_window(composite.RedirectAutomatic)
            self._window.change_attributes(event_mask=X.StructureNotifyMask)
            self._window.xinput_select_events([(xinput.AllMasterDevices, _FOCUS)])
            self._probe = self._root.create_window(-1, -1, 1, 1, 0, 0, X.InputOnly, event_mask=X.PropertyChangeMask)
            depth = self._window.get_geometry().depth
        except _GONE as error:
            raise WindowRecordError(f"the window {number:#x} does not exist") from error
        if depth not in _DEPTHS or self._display.display.info.image_byte_order != X.LSBFirst:
            raise WindowRecordError(f"the window has {depth} bits of colour, not 24 in the usual order of bytes")
        for _ in range(5):
            self._sync()
        self._initial = [Input(time.monotonic(), "focus", value=1.0)] if self._query_focus() else []
        self._select(bool(self._initial))

    def events(self) -> Iterator[Input]:
        """Events since the last call, in the server's order."""
        yield from self._initial
        self._initial = []
        try:
            if time.monotonic() > self._synced + _SYNC_SECONDS:
                self._sync()
                yield from self._check_focus()
            count = len(self._waiting) + self._display.pending_events()
            for _ in range(count):
                event = self._waiting.pop(0) if self._waiting else self._display.next_event()
                yield from self._inputs(event)
        except ConnectionClosedError:
            self.gone = True

    def picture(self) -> Picture | None:
        """Content of the window now; None if it is not shown."""
        try:
            size = self._window.get_geometry()
            before = time.monotonic()
            image = self._window.get_image(0, 0, size.width, size.height, X.ZPixmap, 0xFFFFFFFF)
        except BadMatch:  # hidden, or it has just changed its size
            return None
        except _GONE:
            self.gone = True
            return None
        pixels = np.frombuffer(image.data, np.uint8).reshape(size.height, -1, 4)[:, : size.width]
        return Picture(before, pixels[..., 2::-1])  # from BGRX

    def close(self) -> None:
        """Close the connection; the window is as it was before."""
        with suppress(ConnectionClosedError):
            self._display.close()

    def _inputs(self, event: Any) -> Iterator[Input]:
        if event.type == X.DestroyNotify and event.window.id == self._window.id:
            self.gone = True
        elif event.type == X.MappingNotify:
            self._display.refresh_keyboard_mapping(event)
        elif event.type == self._display.extension_event.GenericEvent:
            if event.evtype in (xinput.FocusIn, xinput.FocusOut):
                yield from self._focus(event.evtype == xinput.FocusIn, event.data)
            elif self._focused and isinstance(event.data, bytes):
                yield from self._raw(event.evtype, event.data)

    def _focus(self, gained: bool, data: bytes) -> Iterator[Input]:
        _, server, _, _, detail = struct.unpack_from("<HIHBB", data)
        if detail in _BY_POINTER or detail == _INFERIOR or gained == self._focused:
            return
        self._select(gained)
        yield Input(self._clock.seconds(server), "focus", value=float(gained))

    def _check_focus(self) -> Iterator[Input]:
        """Loss of the focus for which no event came; not its gain, which is the safer error."""
        if self._focused and not self._query_focus():
            self._select(False)
            yield Input(time.monotonic(), "focus", value=0.0)

    def _raw(self, kind: int, data: bytes) -> Iterator[Input]:
        """Raw events: device, time, detail, source, length of the mask, flags; then the mask and two sets of values."""
        _, server, detail, source, words, _ = struct.unpack_from("<HIIHHI", data)
        now = self._clock.seconds(server)
        if kind == xinput.RawMotion:
            yield from self._moves(now, source, data[22:], words)
            return
        pressed = kind in (xinput.RawKeyPress, xinput.RawButtonPress)
        if kind in (xinput.RawButtonPress, xinput.RawButtonRelease) and detail in WHEEL_BUTTONS:
            if pressed:
                yield Input(now, "move", MOUSE_WHEEL, WHEEL_BUTTONS[detail])
            return
        names = PLACES if kind in (xinput.RawKeyPress, xinput.RawKeyRelease) else BUTTONS
        yield Input(now, "press" if pressed else "release", names.get(detail, ""))

    def _moves(self, now: float, source: int, data: bytes, words: int) -> Iterator[Input]:
        if self._is_absolute(source):  # a tablet or a remote desktop: positions, not movements
            return
        mask = int.from_bytes(data[: 4 * words], "little")
        present = [axis for axis in range(32 * words) if mask >> axis & 1]
        first = 4 * words + 8 * len(present)  # after the accelerated values: those of the device
        for position, axis in enumerate(present):
            if axis < 2:
                whole, part = struct.unpack_from("<iI", data, first + 8 * position)
                yield Input(now, "move", (MOUSE_X, MOUSE_Y)[axis], whole + part / 2**32)

    def _is_absolute(self, source: int) -> bool:
        if source not in self._absolute:
            for device in self._display.xinput_query_device(xinput.AllDevices).devices:
                axes = [one for one in device.classes if one.type == xinput.ValuatorClass and one.number < 2]
                self._absolute[device.deviceid] = any(axis.mode == 1 for axis in axes)
        return self._absolute.get(source, False)

    def _select(self, focused: bool) -> None:
        """Ask the server for raw input, or for no more of it."""
        self._focused = focused
        self._root.xinput_select_events([(xinput.AllMasterDevices, _RAW if focused else 0)])
        self._display.sync()  # no input after the time of the focus is missing

    def _query_focus(self) -> bool:
        """True if the window or a part of it has the focus now."""
        found = self._display.get_input_focus().focus
        try:
            while not isinstance(found, int) and found.id != self._root.id:
                if found.id == self._window.id:
                    return True
                found = found.query_tree().parent
        except BadWindow:  # closed meanwhile
            pass
        return False

    def _sync(self) -> None:
        """Round trip that tells the server's time: a property of an own window changes."""
        before = time.monotonic()
        self._probe.change_property(self._display.get_atom("VPT_TIME"), Xatom.STRING, 8, b"")
        self._display.flush()
        while True:
            event = self._display.next_event()
            if event.type == X.PropertyNotify and event.window.id == self._probe.id:
                break
            self._waiting.append(event)
        self._synced = time.monotonic()
        self._clock.add(before, event.time, self._synced)


def connect(display: str) -> Display:
    """Connection to an X server; raises `WindowRecordError` if there is none."""
    try:
        return Display(display or None)
    except (DisplayError, OSError, ConnectionClosedError) as error:
        raise WindowRecordError(f"no X display {display!r}: {error}. Set config.display, such as :0") from error


def _check_server(display: Display) -> None:
    for name in (composite.extname, xinput.extname):
        if not display.has_extension(name):
            raise WindowRecordError(f"the X server lacks the extension {name}")
    display.composite_query_version()
    # python-xlib announces 2.0, whose clients get no raw events while a game grabs the mouse.
    opcode = display.display.get_extension_major(xinput.extname)
    xinput.XIQueryVersion(display=display.display, opcode=opcode, major_version=2, minor_version=2)
    for name, symbol in CHECKED.items():
        if display.keycode_to_keysym(CODES[name], 0) != XK.string_to_keysym(symbol):
            raise WindowRecordError(f"the X server's key codes are not those of evdev: {CODES[name]} is not {symbol}")


def find_window(display: str, choice: str) -> int:
    """Number of the shown window whose title contains `choice`, or whose number it is (0x...).

    Raises:
        WindowRecordError: none or several do; the message lists all windows with titles.
    """
    connection = connect(display)
    try:
        windows = dict(_titled(connection.screen().root, connection.get_atom))
    finally:
        connection.close()
    if re.fullmatch("0x[0-9a-fA-F]{1,8}", choice):
        found = [int(choice, 16)]
    else:
        found = [number for number, title in windows.items() if choice and choice.lower() in title.lower()]
    if len(found) == 1:
        return found[0]
    listed = "".join(f"\n  {number:#x}  {title}" for number, title in sorted(windows.items())) or " none"
    problem = f"{len(found)} windows have {choice!r} in their title" if choice else "config.window is empty"
    raise WindowRecordError(f"{problem}: set config.window to the number or a part of the title of one of{listed}")


_MAX_WINDOWS = 10_000


def _titled(root: Any, atom: Callable[[str], int]) -> Iterator[tuple[int, str]]:
    """Number and title of all shown windows that have one."""
    waiting, seen = [root], 0
    while waiting and seen < _MAX_WINDOWS:
        seen += 1
        window = waiting.pop()
        try:
            waiting += window.query_tree().children
            if window.get_attributes().map_state != X.IsViewable:
                continue
            name = window.get_full_text_property(atom("_NET_WM_NAME")) or window.get_wm_name()
        except (BadWindow, UnicodeError):  # closed meanwhile, or a title in another encoding
            continue
        if name:
            yield window.id, name if isinstance(name, str) else name.decode("latin-1")
