"""Films of play: every frame enlarged, with its action drawn above it; as mp4, or as an animated picture."""

import math
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from vpt_jax.action_overlay import draw_action, draw_note
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.film_size import MAX_HEIGHT, MAX_WIDTH, film_size, fit_inside
from vpt_jax.video import FRAME_RATE, Frame, VideoWriter

FILM_CRF = 28  # about 100 kB/s: films are embedded in pages
PICTURE_WIDTH = 512  # pixels, approximately: frames are enlarged by an integer factor

Action = tuple[UInt8[np.ndarray, " keys"], Float[np.ndarray, " axes"]]  # buttons; movement of the axes


class FilmFrame(NamedTuple):
    """A frame of a film with its action."""

    frame: Frame
    action: Action
    predicted: Action | None = None  # a second action, drawn in a second row
    note: str = ""  # text drawn on the picture
    space: ActionSpace = MINERL  # of the actions


def draw_large(film_frame: FilmFrame) -> Frame:
    """Draw the enlarged frame, with the keys of its action and of the predicted one, if any, above it; even in size.

    A frame that is too large for a film is reduced, and a narrow one gets black sides.
    """
    enlarged = _enlarge(film_frame.frame)
    if film_frame.note:
        draw_note(enlarged, film_frame.note)
    rows = 1 if film_frame.predicted is None else 2
    panel = np.zeros((2 * math.ceil(rows * enlarged.shape[1] / 40), enlarged.shape[1], 3), np.uint8)
    image = np.concatenate([draw_action(panel, *film_frame.action, film_frame.predicted, film_frame.space), enlarged])
    return image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]


def _enlarge(frame: Frame) -> Frame:
    """Enlarge by an integer factor, or reduce to the largest size of a film."""
    height, width = frame.shape[:2]
    factor = min(round(PICTURE_WIDTH / width), MAX_HEIGHT // height, MAX_WIDTH // width)
    if factor < 1:
        return fit_inside(frame, *film_size(height, width))
    enlarged = frame.repeat(factor, 0).repeat(factor, 1)
    sides = max(0, PICTURE_WIDTH // 2 - enlarged.shape[1])
    return np.pad(enlarged, ((0, 0), (sides // 2, sides - sides // 2), (0, 0)))


def write_film(path: Path, film_frames: Iterator[FilmFrame]) -> None:
    """Write a film; `film_frames` is consumed lazily."""
    first = draw_large(next(film_frames))
    height, width, _ = first.shape
    with VideoWriter(path, height, width, crf=FILM_CRF) as video:
        video.write(first)
        for film_frame in film_frames:
            video.write(draw_large(film_frame))


def write_animation(path: Path, film_frames: Iterable[FilmFrame]) -> None:
    """Write an animated WebP of every second frame: a picture, for pages that show no films, such as a README."""
    first, *others = [Image.fromarray(draw_large(film_frame)) for film_frame in islice(film_frames, 0, None, 2)]
    first.save(path, save_all=True, append_images=others, duration=2000 // FRAME_RATE, loop=0, quality=50)
