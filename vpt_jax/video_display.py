"""Display orientation of decoded pictures: rotation and mirroring by the display matrix, and square pixels.

Phones store pictures as the sensor lies and say how to turn them; broadcast and disc formats store pixels that are not
square. Players apply both, and so does `decode`: first the pixels, then the matrix.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vpt_jax.video_files import VideoError

_ASKEW = 0.02  # of the larger terms of a matrix: about a degree
_SQUARE = 0.01  # pixels that are no further from square are left as they are: rounding of width and height


class Orientation(NamedTuple):
    """One of the eight ways to lay a picture on the screen: transposed first, then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, picture: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h2 w2 c"]:
        """The picture as it is shown."""
        if self == UPRIGHT:
            return picture
        shown = picture.transpose(1, 0, 2) if self.transpose else picture
        return np.ascontiguousarray(shown[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1])

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture of this size as it is shown."""
        return (width, height) if self.transpose else (height, width)


UPRIGHT = Orientation()


def read_orientation(matrix: Sequence[int]) -> Orientation:
    """The orientation that a display matrix asks for (ISO/IEC 14496-12, 6.2.2); its scale and shift are left out.

    Args:
      matrix: the nine numbers `a b u c d v x y w`: a pixel at `(p, q)` is shown at `(a p + c q + x, b p + d q + y)`.
        One without a scale, all zero, is taken for upright, as players do.

    Raises:
      VideoError: "unreadable video" where it turns by anything but quarter turns, or shears.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if not (straight or crossed) and not (max(abs(a), abs(d)) and max(abs(b), abs(c))):
        return UPRIGHT
    if max(abs(b), abs(c)) <= _ASKEW * straight:
        return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    if max(abs(a), abs(d)) <= _ASKEW * crossed:
        return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)
    angle = float(np.degrees(np.arctan2(b, a)))
    raise VideoError(
        "unreadable video",
        f"its display matrix turns the picture by {angle:.0f} degrees: only quarter turns are undone",
    )


def frame_orientation(frame: Any) -> Orientation:
    """The orientation of a frame by PyAV. Raises `VideoError` as `read_orientation`."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 does not know all kinds of side data that its FFmpeg gives
        quarter = round(frame.rotation / 90) % 4  # anticlockwise; a mirror image does not show here
        return (
            UPRIGHT,
            Orientation(True, True, False),
            Orientation(False, True, True),
            Orientation(True, False, True),
        )[quarter]
    return UPRIGHT if matrix is None else read_orientation(np.frombuffer(bytes(matrix), np.int32).tolist())


def square_width(width: int, aspect: Any) -> int:
    """The width of a picture in square pixels; the height stays, as `fit_aspect` keeps it.

    Args:
      width: in pixels as they are stored.
      aspect: width to height of a stored pixel, a fraction; 0 or None: square.
    """
    if not aspect or not aspect.numerator or not aspect.denominator or abs(aspect - 1) <= _SQUARE:
        return width
    return round(width * aspect.numerator / aspect.denominator)
