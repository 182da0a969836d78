"""The arrays of a split's index, checked before they are used: shapes, types, and values that only damage explains."""

from pathlib import Path
from typing import Any

import numpy as np

from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.recording import MAX_DEGREES

LABELS = ("recorded", "predicted")  # where the actions of a split come from
_MAX_FRAMES = 2**31 - 1  # of an episode, and of a record: records hold them as int32
_BLOCK = 2**18  # frames looked at together: they are mapped, and need not be in memory all at once
_TYPES: dict[str, tuple[str, tuple[int | None, ...]]] = {  # dtype and shape of each array; None: any length
    "names": ("U", (None,)),
    "lengths": ("<i8", (None,)),
    "buttons": ("|u1", (None, 20)),
    "camera": ("<f4", (None, 2)),
    "confidence": ("<f4", (None,)),
    "labels": ("U", ()),
    "chunk_frames": ("<i8", ()),
}
_RANGES = {"buttons": (0, 1), "camera": (-MAX_DEGREES, MAX_DEGREES), "confidence": (0, 1.001)}
REMEDY = "Remove the dataset and make it again, or get it again"


def map_arrays(folder: Path) -> dict[str, Any]:
    """Maps all arrays of an index, by name.

    Raises:
        DatasetDamagedError: one is missing, is no array, has another type or shape, or counts that cannot be; whether
            there are as many actions as frames, and of which values, is for `check_actions`.
    """
    arrays = {name: _map(folder / f"{name}.npy", *_TYPES[name]) for name in _TYPES}
    names, lengths = arrays["names"], arrays["lengths"]
    _check(folder / "names.npy", len(names) == len(lengths), f"{len(names)} names of {len(lengths)} episodes")
    _check(folder / "names.npy", len(names) > 0, "no episodes")
    _check(folder / "lengths.npy", 1 <= lengths.min() <= lengths.max() <= _MAX_FRAMES, "episodes of impossible lengths")
    _check(folder / "chunk_frames.npy", 1 <= arrays["chunk_frames"] <= _MAX_FRAMES, f"{int(arrays['chunk_frames'])}")
    _check(folder / "labels.npy", str(arrays["labels"]) in LABELS, f"none of {', '.join(LABELS)}")
    return arrays


def check_actions(folder: Path, arrays: dict[str, Any]) -> None:
    """Raises `DatasetDamagedError` if there is not an action for every frame, or one that nobody can have done."""
    frames = int(arrays["lengths"].sum())
    for name, (low, high) in _RANGES.items():
        file, array = folder / f"{name}.npy", arrays[name]
        _check(file, len(array) == frames, f"{len(array)} rows for {frames} frames")
        for start in range(0, frames, _BLOCK):
            block = array[start : start + _BLOCK]
            if not (block.min() >= low and block.max() <= high):  # NaN is neither
                _check(file, False, f"values that are not from {low} to {high}, in frames {start} and after")


def _map(file: Path, dtype: str, shape: tuple[int | None, ...]) -> Any:
    _check(file, file.is_file(), "it is missing")  # a pipe would be waited for
    try:
        array = np.lib.format.open_memmap(file, mode="r")  # reads no pickles
    except (ValueError, TypeError, EOFError, OverflowError, SyntaxError, MemoryError, RecursionError) as error:
        raise DatasetDamagedError(f"{file} is damaged: {error}. {REMEDY}") from error
    is_type = array.dtype.kind == "U" if dtype == "U" else array.dtype == np.dtype(dtype)
    is_shape = len(array.shape) == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
    _check(file, is_type and is_shape, f"{array.dtype} of shape {array.shape}")
    return array


def _check(file: Path, condition: Any, found: str) -> None:
    if not condition:
        raise DatasetDamagedError(f"{file} is damaged: {found}. {REMEDY}")
