"""Decoding of single images that recordings hold as bytes (PNG, JPEG, BMP, WebP), with a limit of their size."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from vpt_jax.recording import BrokenRecordingError
from vpt_jax.video import MAX_PIXELS, Frame

MAX_IMAGE_BYTES = 2**27
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP")


def decode_image(data: bytes, path: Path, where: str) -> Frame:
    """Decodes an image to RGB, uint8 `[height, width, 3]`.

    Args:
        data: bytes of a file in one of the formats.
        path: of the recording, for errors.
        where: place in the recording, for errors.

    Raises:
        BrokenRecordingError: "absurd size", it has too many bytes or pixels; "damaged video", it is not such an image.
    """
    if len(data) > MAX_IMAGE_BYTES:
        raise BrokenRecordingError(path, "absurd size", f"{where}: an image of {len(data):,} bytes")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise BrokenRecordingError(path, "absurd size", f"{where}: an image of {image.width}x{image.height}")
            return np.array(image.convert("RGB"), np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        detail = f"{where}: not an intact PNG, JPEG, BMP or WebP image ({error})"
        raise BrokenRecordingError(path, "damaged video", detail) from error
