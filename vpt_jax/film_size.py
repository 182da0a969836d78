"""Frame sizes of films: large enough for legible text, even, and no larger than encoders and players support."""

import numpy as np

from vpt_jax.video import Frame, resize

MIN_WIDTH = 640  # pixels: smaller frames are enlarged by an integer factor
MAX_HEIGHT, MAX_WIDTH = 2160, 4096  # pixels; larger frames are reduced


def film_size(height: int, width: int) -> tuple[int, int]:
    """Height and width of a film, both even, for frames of a given size; narrow frames get black sides."""
    scale: float = -(-MIN_WIDTH // width) if width < MIN_WIDTH else 1
    scale = min(scale, MAX_HEIGHT / height, MAX_WIDTH / width)
    film_height, film_width = (max(2, int(scale * side) // 2 * 2) for side in (height, width))
    return film_height, max(film_width, MIN_WIDTH)


def fit_inside(frame: Frame, height: int, width: int) -> Frame:
    """Resize a frame to fit into `height` x `width`, centred on black; one odd row or column is cropped."""
    rows, columns = frame.shape[:2]
    if 0 <= rows - height <= 1 and 0 <= columns - width <= 1:
        return frame[:height, :width]
    scale = min(height / rows, width / columns)
    fitted = [max(1, round(scale * side)) for side in (rows, columns)]
    fitted = [whole if whole - side <= 2 else side for side, whole in zip(fitted, (height, width), strict=True)]
    top, left = (height - fitted[0]) // 2, (width - fitted[1]) // 2
    inside = np.zeros((height, width, 3), np.uint8)
    inside[top : top + fitted[0], left : left + fitted[1]] = resize(frame, *fitted)
    return inside
