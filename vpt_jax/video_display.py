"""Display orientation of decoded frames: rotation and mirroring by the display matrix, and square pixels.

Phones store frames in the orientation of the sensor, with a display matrix that rotates them; broadcast and disc
formats store non-square pixels (sample aspect ratio). Players apply both, and so does `decode`: first the aspect, then
the matrix.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from vpt_jax.video_files import VideoError

_MAX_SKEW = 0.02  # relative to the larger terms of a matrix: about one degree
_SQUARE_TOLERANCE = 0.01  # pixels closer to square are left unchanged: rounding of width and height


class Orientation(NamedTuple):
    """One of the eight orientations of a picture (rotations and mirror images): transposed first, then flipped."""

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False

    def apply(self, picture: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h2 w2 c"]:
        """Rotate and mirror a picture for display."""
        if self == UPRIGHT:
            return picture
        shown = picture.transpose(1, 0, 2) if self.transpose else picture
        return np.ascontiguousarray(shown[:: -1 if self.flip_rows else 1, :: -1 if self.flip_columns else 1])

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a picture of this size as displayed."""
        return (width, height) if self.transpose else (height, width)


UPRIGHT = Orientation()


def read_orientation(matrix: Sequence[int]) -> Orientation:
    """Orientation from a display matrix (ISO/IEC 14496-12, 6.2.2); its scale and translation are ignored.

    Args:
      matrix: the nine numbers `a b u c d v x y w`: a pixel at `(p, q)` is shown at `(a p + c q + x, b p + d q + y)`.
        A matrix without a scale (all zero) counts as upright, as in players.

    Raises:
      VideoError: "unreadable video" where the matrix rotates by anything but quarter turns, or shears.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    straight, crossed = min(abs(a), abs(d)), min(abs(b), abs(c))
    if not (straight or crossed) and not (max(abs(a), abs(d)) and max(abs(b), abs(c))):
        return UPRIGHT
    if max(abs(b), abs(c)) <= _MAX_SKEW * straight:
        return Orientation(False, flip_rows=d < 0, flip_columns=a < 0)
    if max(abs(a), abs(d)) <= _MAX_SKEW * crossed:
        return Orientation(True, flip_rows=b < 0, flip_columns=c < 0)
    angle = float(np.degrees(np.arctan2(b, a)))
    raise VideoError(
        "unreadable video",
        f"its display matrix turns the picture by {angle:.0f} degrees: only quarter turns are undone",
    )


def frame_orientation(frame: Any) -> Orientation:
    """Orientation of a PyAV frame. Raises `VideoError` as `read_orientation`."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV 18 does not support all side data types of its FFmpeg
        quarter = round(frame.rotation / 90) % 4  # anticlockwise; mirror images cannot be detected here
        return (
            UPRIGHT,
            Orientation(True, True, False),
            Orientation(False, True, True),
            Orientation(True, False, True),
        )[quarter]
    return UPRIGHT if matrix is None else read_orientation(np.frombuffer(bytes(matrix), np.int32).tolist())


def square_width(width: int, aspect: Any) -> int:
    """Width of a picture after conversion to square pixels; the height is unchanged, as in `fit_aspect`.

    Args:
      width: stored width in pixels.
      aspect: sample aspect ratio, width to height of a stored pixel, a fraction; 0 or None: square.
    """
    if not aspect or not aspect.numerator or not aspect.denominator or abs(aspect - 1) <= _SQUARE_TOLERANCE:
        return width
    return round(width * aspect.numerator / aspect.denominator)
