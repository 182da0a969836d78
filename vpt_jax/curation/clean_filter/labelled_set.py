"""Labelled frames: a folder with the pictures of each class.

    FOLDER/clean/       play, and nothing laid over it
    FOLDER/artifacts/   play with a face camera, a logo, a watermark, a frame ...
    FOLDER/other/       anything else: other games, menus, faces, titles

Pictures that come from one video are a group: those of a subfolder, or those whose names are alike up to the last "_"
(`artifacts/myvideo_000123.png`). Groups are held out whole, for frames of one video are too alike to test each other.
"""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from vpt_jax.curation.clean_filter.classifier import CLASSES
from vpt_jax.video import Frame

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class LabelledSetError(ValueError):
    """A folder of labelled frames that cannot be used; the message says what to do."""


class LabelledFrame(NamedTuple):
    """A picture, its class's number, and the video that it comes from."""

    path: Path
    label: int
    group: str


def find_frames(folder: Path) -> list[LabelledFrame]:
    """All labelled frames, class by class, by name. Raises LabelledSetError if a class has none."""
    if not folder.is_dir():
        raise LabelledSetError(f"there is no folder of labelled frames at {folder}")
    found = [frame for label, name in enumerate(CLASSES) for frame in _find_class(folder / name, label)]
    for label, name in enumerate(CLASSES):
        if not any(frame.label == label for frame in found):
            raise LabelledSetError(f"{folder / name} holds no pictures ({', '.join(PICTURES)}): every class needs some")
    return found


def _find_class(folder: Path, label: int) -> Iterator[LabelledFrame]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    return (LabelledFrame(path, label, _group(path.relative_to(folder))) for path in paths)


def _group(path: Path) -> str:
    return path.parent.as_posix() if len(path.parts) > 1 else path.stem.rpartition("_")[0] or path.stem


def read_picture(path: Path) -> Frame:
    """The picture. Raises LabelledSetError if it is none."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise LabelledSetError(f"{path} cannot be read as a picture: remove it, or save it anew")
    return np.ascontiguousarray(picture[..., ::-1])


def digest(frames: list[LabelledFrame]) -> str:
    """Changes with the names, labels and bytes of the pictures."""
    checksum = 0
    for frame in frames:
        checksum = zlib.crc32(f"{frame.path.name}/{frame.label}/{frame.group}".encode(), checksum)
        checksum = zlib.crc32(frame.path.read_bytes(), checksum)
    return f"{checksum:08x}"
