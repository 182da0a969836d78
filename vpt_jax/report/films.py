"""Films of play: every frame enlarged, with what is done drawn above it."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.film_size import MAX_HEIGHT, MAX_WIDTH, film_size, fit_inside
from vpt_jax.video import Frame, VideoWriter, draw_action, draw_note

FILM_CRF = 28  # about 100 kB a second, for films are part of pages
PICTURE_WIDTH = 512  # pixels, about: frames are enlarged by a whole number

Action = tuple[UInt8[np.ndarray, "20"], Float[np.ndarray, "2"]]  # buttons; degrees of pitch and yaw


class Moment(NamedTuple):
    """A frame of a film."""

    frame: Frame
    action: Action
    predicted: Action | None = None  # a second action, for a row below
    note: str = ""  # written on the picture


def draw_large(moment: Moment) -> Frame:
    """The frame enlarged, and above it the action's keys and, if given, those of the predicted one; even in size.

    A frame that is too large for a film is made smaller, and a narrow one has black sides.
    """
    large = _enlarge(moment.frame)
    if moment.note:
        draw_note(large, moment.note)
    rows = 1 if moment.predicted is None else 2
    panel = np.zeros((2 * math.ceil(rows * large.shape[1] / 40), large.shape[1], 3), np.uint8)
    drawn = np.concatenate([draw_action(panel, *moment.action, predicted=moment.predicted), large])
    return drawn[: len(drawn) // 2 * 2, : drawn.shape[1] // 2 * 2]


def _enlarge(frame: Frame) -> Frame:
    """By a whole number, or to the largest size of a film."""
    height, width = frame.shape[:2]
    factor = min(round(PICTURE_WIDTH / width), MAX_HEIGHT // height, MAX_WIDTH // width)
    if factor < 1:
        return fit_inside(frame, *film_size(height, width))
    large = frame.repeat(factor, 0).repeat(factor, 1)
    sides = max(0, PICTURE_WIDTH // 2 - large.shape[1])
    return np.pad(large, ((0, 0), (sides // 2, sides - sides // 2), (0, 0)))


def write_film(path: Path, play: Iterator[Moment]) -> None:
    """Writes a film of what `play` gives, as it comes."""
    first = draw_large(next(play))
    height, width, _ = first.shape
    with VideoWriter(path, height, width, crf=FILM_CRF) as video:
        video.write(first)
        for moment in play:
            video.write(draw_large(moment))
