"""Synthetic overlays drawn on clean frames, as pictures of the class "artifacts": data augmentation, and test data.

Each of `OVERLAYS` takes a frame and a random generator, and returns a new frame; the same generator state gives the
same overlay.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from vpt_jax.video import Frame

_FONT = cv2.FONT_HERSHEY_DUPLEX
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def face_camera(frame: Frame, rng: np.random.Generator) -> Frame:
    """Draws a person in front of a wall, in a box that is a fifth to a third as wide as the frame."""
    width = int(frame.shape[1] * rng.uniform(0.22, 0.34))
    height = min(int(width / rng.choice([4 / 3, 16 / 9, 1])), len(frame))
    person = _person(rng, height, width)
    if rng.random() < 0.5:
        cv2.rectangle(person, (0, 0), (width - 1, height - 1), _random_colour(rng), max(1, width // 40))
    return _paste(frame, person, *_corner(frame, rng, height, width))


def logo(frame: Frame, rng: np.random.Generator) -> Frame:
    """Draws a coloured shape with letters in it, an eighth to a fifth as wide as the frame."""
    width = int(frame.shape[1] * rng.uniform(0.13, 0.2))
    height = int(width * rng.uniform(0.6, 1))
    top, left = _corner(frame, rng, height, width)
    background = frame[top : top + height, left : left + width].copy()
    drawn = background.copy()
    shape = rng.choice(["box", "ellipse", "diamond"])
    middle, colour = (width // 2, height // 2), _random_colour(rng)
    if shape == "box":
        drawn[:] = colour
    elif shape == "ellipse":
        cv2.ellipse(drawn, middle, middle, 0, 0, 360, colour, -1, cv2.LINE_AA)
    else:
        ends = [(middle[0], 0), (width - 1, middle[1]), (middle[0], height - 1), (0, middle[1])]
        cv2.fillPoly(drawn, [np.array(ends)], colour, cv2.LINE_AA)
    _draw_text(drawn, _random_text(rng, 4), _random_colour(rng), 0.75 * width, width // 8, height // 2 + width // 12)
    return _paste(frame, _blend(background, drawn, rng.uniform(0.75, 1)), top, left)


def watermark(frame: Frame, rng: np.random.Generator) -> Frame:
    """Draws translucent letters across the frame or in a corner, two to four fifths as wide as the frame."""
    width = int(frame.shape[1] * rng.uniform(0.4, 0.8))
    height = width // 4
    in_the_middle = (len(frame) - height) // 2, (frame.shape[1] - width) // 2
    top, left = in_the_middle if rng.random() < 0.5 else _corner(frame, rng, height, width)
    colour = (255, 255, 255) if rng.random() < 0.7 else _random_colour(rng)
    drawn = frame.copy()
    _draw_text(drawn, _random_text(rng, int(rng.integers(5, 9))), colour, width, left, top + int(0.7 * height))
    return _blend(frame, drawn, rng.uniform(0.6, 0.95))


def letterbox(frame: Frame, rng: np.random.Generator) -> Frame:
    """Draws bars above and below, or left and right, each a twelfth to a sixth of the frame; mostly black."""
    height, width = frame.shape[:2]
    drawn = np.empty_like(frame)
    drawn[:] = 0 if rng.random() < 0.7 else _random_colour(rng)
    bar = rng.uniform(0.08, 0.18)
    rows, columns = (int(height * bar), 0) if rng.random() < 0.5 else (0, int(width * bar))
    inside = slice(rows, height - rows), slice(columns, width - columns)
    drawn[inside] = frame[inside]
    return drawn


OVERLAYS: dict[str, Callable[[Frame, np.random.Generator], Frame]] = {
    "face camera": face_camera, "logo": logo, "watermark": watermark, "letterbox": letterbox,
}  # fmt: skip


def _person(rng: np.random.Generator, height: int, width: int) -> Frame:
    """Head and shoulders in front of coarse patches of colour."""
    patches = rng.integers(0, 256, (int(rng.integers(2, 6)), int(rng.integers(2, 8)), 3)).astype(np.uint8)
    interpolation = cv2.INTER_CUBIC if rng.random() < 0.6 else cv2.INTER_NEAREST
    drawn = (cv2.resize(patches, (width, height), interpolation=interpolation) * rng.uniform(0.4, 1)).astype(np.uint8)
    skin = tuple(int(value) for value in np.clip(np.array([225, 172, 140]) * rng.uniform(0.35, 1.05), 0, 255))
    x, y, radius = (int(value) for value in (width * rng.uniform(0.35, 0.65), height * 0.42, height * 0.22))
    cv2.circle(drawn, (x, y + 3 * radius), 2 * radius, _random_colour(rng), -1, cv2.LINE_AA)
    cv2.ellipse(drawn, (x, y - radius // 3), (radius, radius), 0, 0, 360, _random_colour(rng, 110), -1, cv2.LINE_AA)
    cv2.ellipse(drawn, (x, y), (3 * radius // 4, radius), 0, 0, 360, skin, -1, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.circle(drawn, (x + side * radius // 3, y), max(1, radius // 9), (30, 20, 20), -1, cv2.LINE_AA)
    noise = rng.normal(0, rng.uniform(1, 8), drawn.shape)
    return np.clip(drawn + noise, 0, 255).astype(np.uint8)


def _random_colour(rng: np.random.Generator, brightest: int = 256) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(0, brightest, 3))


def _random_text(rng: np.random.Generator, letters: int) -> str:
    return "".join(rng.choice(list(_LETTERS), letters))


def _corner(frame: Frame, rng: np.random.Generator, height: int, width: int) -> tuple[int, int]:
    """Top and left of a box in or near a random corner of the frame."""
    margin = int(rng.integers(0, max(2, frame.shape[1] // 25)))
    ends = [max(0, side - size - margin) for side, size in zip(frame.shape[:2], (height, width), strict=True)]
    top, left = (min(margin, end) if rng.random() < 0.5 else end for end in ends)
    return top, left


def _paste(frame: Frame, part: UInt8[np.ndarray, "h2 w2 3"], top: int, left: int) -> Frame:
    drawn = frame.copy()
    drawn[top : top + len(part), left : left + part.shape[1]] = part
    return drawn


def _blend(below: Frame, above: Frame, alpha: float) -> Frame:
    return cv2.addWeighted(below, 1 - alpha, above, alpha, 0)


def _draw_text(frame: Frame, text: str, colour: tuple[int, ...], width: int | float, left: int, base: int) -> None:
    """Draws bold text of this width in pixels, in place."""
    thin, _ = cv2.getTextSize(text, _FONT, 1, 1)
    scale = width / thin[0]
    cv2.putText(frame, text, (left, base), _FONT, scale, colour, max(1, round(4 * scale)), cv2.LINE_AA)
