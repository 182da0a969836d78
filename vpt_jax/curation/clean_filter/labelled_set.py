"""Labelled frames: a folder with the pictures of each class.

    FOLDER/clean/       play without overlays
    FOLDER/artifacts/   play with a face camera, a logo, a watermark, a frame ...
    FOLDER/other/       anything else: other games, menus, faces, titles

Pictures from one video are a group: those of a subfolder, or those whose names are equal up to the last "_"
(`artifacts/myvideo_000123.png`). Cross-validation holds out whole groups, since frames of one video are too similar to
test each other.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from vpt_jax.curation.clean_filter.classifier import CLASSES
from vpt_jax.system.errors import UserError
from vpt_jax.video import Frame

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class LabelledSetError(UserError, ValueError):
    """A folder of labelled frames that cannot be used; the message gives the remedy."""


class LabelledFrame(NamedTuple):
    """A picture, the index of its class in `CLASSES`, and the video (group) that it comes from."""

    path: Path
    label: int
    group: str


def find_frames(folder: Path) -> list[LabelledFrame]:
    """Lists all labelled frames, class by class, sorted by path. Raises LabelledSetError if a class has none."""
    if not folder.is_dir():
        raise LabelledSetError(f"there is no folder of labelled frames at {folder}")
    found = [frame for label, name in enumerate(CLASSES) for frame in _find_class(folder / name, label)]
    for label, name in enumerate(CLASSES):
        if not any(frame.label == label for frame in found):
            raise LabelledSetError(f"{folder / name} holds no pictures ({', '.join(PICTURE_SUFFIXES)}): add some")
    return found


def _find_class(folder: Path, label: int) -> Iterator[LabelledFrame]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURE_SUFFIXES and path.is_file())
    return (LabelledFrame(path, label, _group(path.relative_to(folder))) for path in paths)


def _group(path: Path) -> str:
    return path.parent.as_posix() if len(path.parts) > 1 else path.stem.rpartition("_")[0] or path.stem


def read_picture(path: Path) -> Frame:
    """Reads a picture as RGB. Raises LabelledSetError if it cannot be decoded."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise LabelledSetError(f"{path} cannot be read as a picture: remove it, or save it again")
    return np.ascontiguousarray(picture[..., ::-1])


def digest(frames: list[LabelledFrame]) -> str:
    """CRC-32 over the names, labels, groups and bytes of the pictures."""
    checksum = 0
    for frame in frames:
        checksum = zlib.crc32(f"{frame.path.name}/{frame.label}/{frame.group}".encode(), checksum)
        checksum = zlib.crc32(frame.path.read_bytes(), checksum)
    return f"{checksum:08x}"
