"""Actions drawn on frames: a cap for every key, an arrow for the mouse, and notes."""

import math

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions.minerl import BUTTON_INDEX, HOTBARS, MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.video import Frame

_KEY_CAPS = {
    "forward": "W", "left": "A", "back": "S", "right": "D", "jump": "jump", "sneak": "sneak", "sprint": "sprint",
    "attack": "attack", "use": "use", "drop": "drop", "inventory": "inv",
}  # fmt: skip
_ROW_HEIGHT, _ROW_WIDTH, _GAP = 64, 1280, 10  # a row is drawn at this size, then scaled to the width of the frame
_LABEL, _UP, _DOWN, _ON_DOWN = (200, 200, 200), (120, 120, 120), (255, 212, 80), (1, 1, 1)  # colours; a key's state


def draw_action(
    frame: Frame,
    buttons: UInt8[np.ndarray, " keys"],
    camera: Float[np.ndarray, " axes"],
    predicted: tuple[UInt8[np.ndarray, " keys"], Float[np.ndarray, " axes"]] | None = None,
    space: ActionSpace = MINERL,
) -> Frame:
    """A copy of the frame with the action drawn at its upper edge: a cap for every key, lit when held, and the mouse.

    Args:
      frame: not modified. The letters need about 300 pixels of width: enlarge a smaller frame first.
      buttons: keys held, 1 each.
      camera: movement. The arrow points where the camera turns, and is longest where the bins end.
      predicted: buttons and camera of a second action, for the row below; the rows are then labelled.
      space: of the actions. Of a space whose keys do not fit into the row, the keys that are held are drawn.
    """
    rows = _action_row(space, buttons, camera)
    if predicted is not None:
        rows = np.concatenate(
            [_action_row(space, buttons, camera, "recorded"), _action_row(space, *predicted, "predicted")]
        )
    width = frame.shape[1]
    height = min(max(1, round(len(rows) * width / _ROW_WIDTH)), len(frame))
    drawn = frame.copy()
    strip = drawn[:height]
    np.maximum(strip // 4, cv2.resize(rows, (width, height), interpolation=cv2.INTER_AREA), out=strip)
    return drawn


def draw_note(frame: Frame, text: str) -> None:
    """Draw a short text into the lower left corner of the frame, in place; at most half of its height."""
    scale = min(0.7 * _FONT_SCALE, 0.004 * len(frame))
    (width, height), _ = cv2.getTextSize(text, _FONT, scale, 1)
    frame[len(frame) - 2 * height :, : width + 2 * height] //= 4  # a dark background, readable on any picture
    cv2.putText(frame, text, (height, len(frame) - height // 2), _FONT, scale, _DOWN, 1, cv2.LINE_AA)


def _action_row(
    space: ActionSpace, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"], label: str = ""
) -> Frame:
    row = np.zeros((_ROW_HEIGHT, _ROW_WIDTH, 3), np.uint8)
    _draw_text(row, label, _GAP, _LABEL)
    x = 170 if label else _GAP
    if space.keys == MINERL.keys:
        for name, text in _KEY_CAPS.items():
            x = _draw_cap(row, text, x, bool(buttons[BUTTON_INDEX[name]]))
        slots = [str(slot) for slot, name in enumerate(HOTBARS, 1) if buttons[BUTTON_INDEX[name]]]
        x = _draw_cap(row, slots[-1] if slots else "1-9", x, bool(slots), width=66)
    else:
        x = _draw_caps(row, space, buttons, x)
    _draw_mouse(row, x, space, camera)
    return row


def _draw_caps(row: Frame, space: ActionSpace, buttons: UInt8[np.ndarray, " keys"], x: int) -> int:
    """Draw a cap for every key or, if these do not fit, for every key that is held; returns where they end."""
    room = _ROW_WIDTH - x - 2 * _ROW_HEIGHT
    fits = sum(_text_width(name) + 24 + _GAP for name in space.keys) <= room
    for name, held in zip(space.keys, buttons, strict=True):
        if (fits or held) and x + _text_width(name) + 24 < _ROW_WIDTH - 2 * _ROW_HEIGHT:
            x = _draw_cap(row, name, x, bool(held))
    return x


def _draw_cap(row: Frame, text: str, x: int, held: bool, width: int = 0) -> int:
    """Draw a key cap with its left edge at `x`; returns where the next one starts."""
    width = width or _text_width(text) + 24
    corners = (x, 8), (x + width, _ROW_HEIGHT - 8)
    cv2.rectangle(row, *corners, _DOWN if held else _UP, cv2.FILLED if held else 2, cv2.LINE_AA)
    _draw_text(row, text, x + (width - _text_width(text)) // 2, _ON_DOWN if held else _UP)
    return x + width + _GAP


def _draw_mouse(row: Frame, x: int, space: ActionSpace, camera: Float[np.ndarray, " axes"]) -> None:
    """Draw an arrow of the first axis that goes sideways, which a mirrored frame reverses, and the first other one."""
    if not space.axes:
        return
    radius = _ROW_HEIGHT // 2 - 4
    centre = (x + radius, _ROW_HEIGHT // 2)
    cv2.circle(row, centre, radius, _UP, 2, cv2.LINE_AA)
    parts = [next((i for i, axis in enumerate(space.axes) if axis.mirrored is way), None) for way in (True, False)]
    right, down = (0.0 if i is None else float(camera[i]) / space.axes[i].quantizer.maximum for i in parts)
    if share := math.hypot(right, down):
        length = radius * min(1, share) ** 0.5 / share  # the root keeps small moves visible
        tip = (round(centre[0] + length * right), round(centre[1] + length * down))
        cv2.arrowedLine(row, centre, tip, _DOWN, 4, cv2.LINE_AA, tipLength=0.4)


_FONT, _FONT_SCALE, _FONT_WEIGHT = cv2.FONT_HERSHEY_SIMPLEX, 0.85, 2


def _text_width(text: str) -> int:
    return cv2.getTextSize(text, _FONT, _FONT_SCALE, _FONT_WEIGHT)[0][0]


def _draw_text(row: Frame, text: str, x: int, colour: tuple[int, int, int]) -> None:
    cv2.putText(row, text, (x, _ROW_HEIGHT // 2 + 10), _FONT, _FONT_SCALE, colour, _FONT_WEIGHT, cv2.LINE_AA)
