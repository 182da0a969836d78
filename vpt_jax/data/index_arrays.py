"""Validation of a split's index arrays before use: dtypes, shapes, and ranges of values."""

from pathlib import Path
from typing import Any

import numpy as np

from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.errors import DatasetDamagedError

LABELS = ("recorded", "predicted")  # source of the actions of a split
_MAX_FRAMES = 2**31 - 1  # of an episode, and of a record: records hold them as int32
_BLOCK = 2**18  # frames checked at a time: arrays are memory-mapped, and need not fit into memory
REMEDY = "Remove the dataset and prepare it again, or download it again"


def _types(space: ActionSpace) -> dict[str, tuple[str, tuple[int | None, ...]]]:
    """Dtype and shape of each array; None: any length."""
    return {
        "names": ("U", (None,)),
        "lengths": ("<i8", (None,)),
        "buttons": ("|u1", (None, len(space.keys))),
        "camera": ("<f4", (None, len(space.axes))),
        "confidence": ("<f4", (None,)),
        "labels": ("U", ()),
        "chunk_frames": ("<i8", ()),
    }


def memmap_arrays(folder: Path, space: ActionSpace) -> dict[str, Any]:
    """Memory-maps all arrays of an index of actions of this space, by name.

    Raises:
        DatasetDamagedError: an array is missing, is not an array, or has another dtype or shape; or names, lengths or
            chunk size are impossible. `check_actions` checks the number of actions and their values.
    """
    arrays = {name: _memmap(folder / f"{name}.npy", *kind) for name, kind in _types(space).items()}
    names, lengths = arrays["names"], arrays["lengths"]
    _check(folder / "names.npy", len(names) == len(lengths), f"{len(names)} names of {len(lengths)} episodes")
    _check(folder / "names.npy", len(names) > 0, "no episodes")
    _check(folder / "lengths.npy", 1 <= lengths.min() <= lengths.max() <= _MAX_FRAMES, "impossible episode lengths")
    _check(folder / "chunk_frames.npy", 1 <= arrays["chunk_frames"] <= _MAX_FRAMES, f"{int(arrays['chunk_frames'])}")
    _check(folder / "labels.npy", str(arrays["labels"]) in LABELS, f"not one of {', '.join(LABELS)}")
    return arrays


def check_actions(folder: Path, arrays: dict[str, Any], space: ActionSpace) -> None:
    """Raises `DatasetDamagedError` if a frame has no action, or an action is out of the space's range."""
    frames = int(arrays["lengths"].sum())
    limits = space.limits.astype(np.float32)
    ranges: dict[str, tuple[Any, Any]] = {"buttons": (0, 1), "camera": (-limits, limits), "confidence": (0, 1.001)}
    for name, (low, high) in ranges.items():
        file, array = folder / f"{name}.npy", arrays[name]
        _check(file, len(array) == frames, f"{len(array)} rows for {frames} frames")
        for start in range(0, frames, _BLOCK):
            block = array[start : start + _BLOCK]
            if not ((block >= low) & (block <= high)).all():  # also true for NaN
                bounds = f"[{np.min(low, initial=0)}, {np.max(high, initial=0)}]"
                _check(file, False, f"values outside {bounds}, in frames {start} and after")


def _memmap(file: Path, dtype: str, shape: tuple[int | None, ...]) -> Any:
    _check(file, file.is_file(), "it is missing")  # opening a named pipe would block
    try:
        array = np.lib.format.open_memmap(file, mode="r")  # does not load pickles
    except (ValueError, TypeError, EOFError, OverflowError, SyntaxError, MemoryError, RecursionError) as error:
        raise DatasetDamagedError(f"{file} is damaged: {error}. {REMEDY}") from error
    is_type = array.dtype.kind == "U" if dtype == "U" else array.dtype == np.dtype(dtype)
    is_shape = len(array.shape) == len(shape) and all(w in (None, n) for w, n in zip(shape, array.shape, strict=True))
    _check(file, is_type and is_shape, f"{array.dtype} of shape {array.shape}")
    return array


def _check(file: Path, condition: Any, found: str) -> None:
    if not condition:
        raise DatasetDamagedError(f"{file} is damaged: {found}. {REMEDY}")
