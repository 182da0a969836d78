"""An episode of a dataset as exports get it, and names of their files."""

import hashlib
from collections.abc import Callable, Iterator
from typing import NamedTuple
from urllib.parse import quote

import numpy as np
from jaxtyping import Float32, UInt8

from vpt_jax.actions.space import ActionSpace
from vpt_jax.system.errors import UserError
from vpt_jax.video import Frame

MAX_STEM = 180  # bytes of a file name, before its suffix


class ExportError(UserError, ValueError):
    """A dataset that cannot be exported as configured; the message gives the remedy."""


class ExportedEpisode(NamedTuple):
    """An episode with its raw actions; step i is what was done from frame i to the next."""

    name: str
    space: ActionSpace
    buttons: UInt8[np.ndarray, "n keys"]
    camera: Float32[np.ndarray, "n axes"]
    confidence: Float32[np.ndarray, " n"]  # probability of each label; 1 if recorded
    labels: str  # "recorded" or "predicted"
    frames: Callable[[], Iterator[Frame]]

    def __len__(self) -> int:
        return len(self.buttons)


def file_stem(name: str) -> str:
    """A file name for an episode, without suffix; different names have different ones."""
    stem = quote(name, safe=" @()+,=~'!&")
    stem = stem if not stem.startswith(".") else "%2E" + stem[1:]
    if len(stem) > MAX_STEM:
        stem = f"{stem[: MAX_STEM - 33]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return stem
