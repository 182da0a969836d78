"""Bridge from the CS:GO dataset of Pearce and Zhu ("Counter-Strike Deathmatch with Large-Scale Behavioural Cloning").

A file has 1,000 frames in turn, about a minute. Of frame i, from 0, it holds the HDF5 datasets

    frame_i_x      uint8 [150, 280, 3], blue, green, red
    frame_i_y      51 numbers: 11 keys, left and right mouse button, 23 bins of mouse x, 15 of mouse y
    frame_i_xaux   54 numbers of the three steps before, 18 each; the 16th is the health after that step (0: dead)
    frame_i_helperarr

The action of frame i is what was done after it was taken, and before the next one: their recorders take the picture
last in a step. There are no times: the rate is 16 frames per second, unless `BridgeOptions` says otherwise. The mouse
is known by bins only, in counts of the authors' sensitivity; its largest values mean "as much or more". While the
player is dead the labels are empty whatever is pressed, so these steps are excluded. Files are named by number, as
`hdf5_dm_july2021_expert_12.hdf5`: neighbours are minutes of one session, which no file states.

The authors' licence covers personal projects and open research, and no commercial use.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from vpt_jax.data.bridges.facts import facts_file_of_file
from vpt_jax.data.bridges.interface import Bridge, BridgeOptions, InputEvents, TimedPlay
from vpt_jax.data.bridges.key_names import MOUSE_BUTTONS, MOUSE_X, MOUSE_Y
from vpt_jax.data.runs import find_runs
from vpt_jax.recording import MAX_STEPS, BrokenRecordingError
from vpt_jax.system.errors import UserError, missing_package
from vpt_jax.video import MAX_PIXELS, Frame

SUFFIXES = (".hdf5", ".h5")
RATE = 16
KEYS = ("w", "a", "s", "d", "space", "left_control", "left_shift", "1", "2", "3", "r", *MOUSE_BUTTONS[:2])
_X, _Y = (2, 4, 10, 20, 30, 60, 100, 200, 300, 500, 1000), (2, 4, 10, 20, 50, 100, 200)
MOUSE_X_COUNTS, MOUSE_Y_COUNTS = (np.array([*(-n for n in side[::-1]), 0, *side], float) for side in (_X, _Y))
NUM_LABELS = len(KEYS) + len(MOUSE_X_COUNTS) + len(MOUSE_Y_COUNTS)
_AUXILIARY, _HEALTH = 54, 15  # length of frame_i_xaux; the health after step i - 1 in it
_LICENCE = "personal projects and open research, no commercial use (Pearce and Zhu)"


def find_recordings(folder: Path) -> list[Path]:
    """HDF5 files below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def recording_files(recording: Path) -> list[Path]:
    """The file itself."""
    return [recording]


def read(recording: Path, options: BridgeOptions) -> Mapping[str, TimedPlay]:
    """Reads the labels of a file; its frames are read one by one.

    Raises:
        BrokenRecordingError: with the file, the reason and the name of the HDF5 dataset.
        UserError: h5py is not installed, or the rate is impossible.
    """
    rate = options.frames_per_second or RATE
    if not 1 <= rate <= 1000:
        raise UserError(f"frames_per_second is {rate}: it must be a rate from 1 to 1000, or 0 for {RATE}")
    with _opened(recording) as file:
        number = _count(recording, file)
        labels = np.stack([_values(recording, file, f"frame_{i}_y", NUM_LABELS) for i in range(number)])
        dead = _dead(recording, file, number)
    held, mouse = _actions(recording, labels)
    excluded = tuple((first / rate, last / rate) for first, last in find_runs(dead).tolist())
    remarks = ["the mouse is known by bins only"]
    if excluded:
        remarks.append(f"{dead.sum()} of {number} steps while the player was dead: excluded")
    facts = {"session": recording.stem, "game": "csgo", "licence": _LICENCE}
    frames = _timed_frames(recording, number, rate)
    return {recording.stem: TimedPlay(_events(held, mouse, rate), frames, excluded, facts, tuple(remarks))}


@contextmanager
def _opened(recording: Path) -> Iterator[Any]:
    """An open file. Errors of the HDF5 library in the block, of many types, become `BrokenRecordingError`."""
    try:
        import h5py  # here, since only this format needs it
    except ModuleNotFoundError as error:
        raise missing_package("h5py", "csgo") from error
    try:
        with h5py.File(recording, "r") as file:
            yield file
    except FileNotFoundError as error:
        raise BrokenRecordingError(recording, "missing actions", "there is no such file") from error
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise BrokenRecordingError(recording, "unreadable actions", f"no HDF5, or damaged: {error}") from error


def _count(recording: Path, file: Any) -> int:
    """Number of frames; they must be numbered from 0 without a gap."""
    if len(file) > 4 * MAX_STEPS:
        raise BrokenRecordingError(recording, "absurd size", f"more than {MAX_STEPS:,} frames")
    names = [name for name in file if isinstance(name, str)]  # bytes where a name is not UTF-8
    numbers = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"frame_(\d{1,9})_x", name)))
    if not numbers:
        raise BrokenRecordingError(recording, "no records", "it holds no dataset frame_0_x")
    if numbers != list(range(len(numbers))):
        gap = next(number for number, found in enumerate(numbers) if number != found)
        raise BrokenRecordingError(
            recording, "frame count", f"frame_{gap}_x is missing, but frame_{numbers[-1]}_x exists"
        )
    return len(numbers)


def _dataset(recording: Path, file: Any, name: str) -> Any:
    """An HDF5 dataset whose contents lie in this file. Others could name any file of the machine."""
    import h5py

    link = file.get(name, getlink=True)
    found = file.get(name) if isinstance(link, h5py.HardLink) else None
    if not isinstance(found, h5py.Dataset):
        raise BrokenRecordingError(recording, "missing field", f"{name} is not a dataset of this file")
    if found.external or found.is_virtual:
        raise BrokenRecordingError(recording, "bad value", f"{name} has its contents in another file")
    if max(found.size, math.prod(found.chunks or ())) > 3 * MAX_PIXELS:  # a compressed chunk is unpacked as a whole
        raise BrokenRecordingError(recording, "absurd size", f"{name} has the shape {found.shape}")
    return found


def _values(recording: Path, file: Any, name: str, length: int) -> Float64[np.ndarray, " n"]:
    """The `length` numbers of a dataset."""
    found = _dataset(recording, file, name)
    if found.shape != (length,) or found.dtype.kind not in "buif":
        expected = f"{length} numbers, not {found.dtype} {found.shape}"
        raise BrokenRecordingError(recording, "bad value", f"{name} must be {expected}")
    return np.asarray(found[()], np.float64)


def _actions(
    recording: Path, labels: Float64[np.ndarray, "n 51"]
) -> tuple[Bool[np.ndarray, "n 13"], Float64[np.ndarray, "n 2"]]:
    """Held keys and mouse counts (x, y) of each step."""
    x_end = len(KEYS) + len(MOUSE_X_COUNTS)
    bins = labels[:, len(KEYS) : x_end], labels[:, x_end:]
    wrong = ~np.isin(labels, (0, 1)).all(-1) | np.any([one.sum(-1) != 1 for one in bins], axis=0)
    if wrong.any():
        number = int(np.argmax(wrong))
        problem = "must be zeros and ones, with one 1 for each axis of the mouse"
        raise BrokenRecordingError(recording, "bad value", f"frame_{number}_y {problem}")
    counts = (MOUSE_X_COUNTS, MOUSE_Y_COUNTS)
    mouse = np.stack([values[one.argmax(-1)] for values, one in zip(counts, bins, strict=True)], -1)
    return labels[:, : len(KEYS)] > 0, mouse


def _dead(recording: Path, file: Any, number: int) -> Bool[np.ndarray, " n"]:
    """Steps at whose start or end the player has no health; none in files without frame_i_xaux."""
    health = np.ones(number)
    if "frame_0_xaux" in file:
        stored = [_values(recording, file, f"frame_{i}_xaux", _AUXILIARY)[_HEALTH] for i in range(1, number)]
        health[: number - 1] = stored
    dead = health <= 0
    return dead | np.concatenate([[False], dead[:-1]])


def _events(held: Bool[np.ndarray, "n 13"], mouse: Float64[np.ndarray, "n 2"], rate: float) -> InputEvents:
    """Events at the frames' times: where a key changes, and where the mouse moves."""
    change = np.diff(held.astype(np.int8), axis=0, prepend=0)
    step, code, value = [], [], []
    for actions, first in ((change, 0), (mouse, len(KEYS))):
        rows, columns = np.nonzero(actions)
        step.append(rows)
        code.append(columns + first)
        value.append(np.maximum(actions[rows, columns], 0) if first == 0 else actions[rows, columns])
    steps, codes, values = (np.concatenate(parts) for parts in (step, code, value))
    names = (*KEYS, MOUSE_X, MOUSE_Y)
    return InputEvents(names, len(KEYS), steps / rate, codes.astype(np.int32), values.astype(np.float64))


def _timed_frames(recording: Path, number: int, rate: float) -> Callable[[], Iterator[tuple[float, Frame]]]:
    def frames() -> Iterator[tuple[float, Frame]]:
        with _opened(recording) as file:
            for i in range(number):
                name = f"frame_{i}_x"
                found = _dataset(recording, file, name)
                if found.dtype != np.uint8 or len(found.shape) != 3 or found.shape[2] != 3 or not found.size:
                    problem = f"{name} must be uint8 [height, width, 3], not {found.dtype} {found.shape}"
                    raise BrokenRecordingError(recording, "bad value", problem)
                yield i / rate, np.ascontiguousarray(found[()][..., ::-1])

    return frames


BRIDGE = Bridge(find_recordings, recording_files, read, ("frames_per_second",), facts_file_of_file)
