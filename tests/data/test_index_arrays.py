"""Damaged or hostile index arrays are rejected when loaded, with an error that names the file."""

import io
import os
import pickle
import shutil

import numpy as np
import pytest

from vpt_jax.data.dataset import DatasetDamagedError, load_index
from vpt_jax.data.index_arrays import _BLOCK
from vpt_jax.data.streams import Stream, StreamSettings

from .tiny import write_dataset

FRAMES = 15


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("small") / "data", [7, 8])


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


def header_only(array, shape):
    """The bytes of an array whose header declares more data than there is."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + array.tobytes()


ARRAYS = {  # file: replacements of its array, as functions of the original
    "chunk_frames": [
        lambda a: np.int64(0),
        lambda a: np.int64(-4),
        lambda a: np.int64(2**62),
        lambda a: np.float64(4),
        lambda a: np.array([4]),
        lambda a: np.int32(4),
    ],
    "names": [
        lambda a: a[:1],
        lambda a: np.array(["a", "b", "c"]),
        lambda a: a[:0],
        lambda a: np.array([b"a", b"b"]),
        lambda a: np.array([1, 2]),
        lambda a: a[None],
    ],
    "lengths": [
        lambda a: np.array([7]),
        lambda a: np.array([7, 9]),
        lambda a: np.array([7, 0]),
        lambda a: np.array([-1, 16]),
        lambda a: np.array([2**62, 2**62]),
        lambda a: np.array([7.0, 8.0]),
        lambda a: np.array([7, 8], np.int32),
        lambda a: a[:, None],
    ],
    "buttons": [
        lambda a: a[:-1],
        lambda a: changed(a, (3, 5), 255),
        lambda a: changed(a, (14, 19), 2),
        lambda a: a.astype(np.float32),
        lambda a: a.astype(bool),
        lambda a: a[:, :19],
        lambda a: a.ravel(),
    ],
    "camera": [
        lambda a: changed(a, (9, 1), np.nan),
        lambda a: changed(a, (0, 0), -np.inf),
        lambda a: changed(a, (14, 1), 181),
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">f4"),
        lambda a: np.concatenate([a, a[:1]]),
    ],
    "confidence": [
        lambda a: changed(a, 2, np.nan),
        lambda a: changed(a, 2, -0.1),
        lambda a: changed(a, 2, 1.5),
        lambda a: a[:3],
    ],
    "labels": [lambda a: np.array("guessed"), lambda a: np.array(["recorded"]), lambda a: np.array(1)],
}


@pytest.mark.parametrize("name", ARRAYS)
def test_invalid_arrays_are_refused(small, tmp_path, name):
    """Chunks of size zero, NaN angles, buttons of 255, missing names, other dtypes and shapes (attack L4)."""
    data = shutil.copytree(small, tmp_path / "data")
    file = data / "index" / "train" / f"{name}.npy"
    before = np.load(file)
    for number, change in enumerate(ARRAYS[name]):
        np.save(file, change(before))
        with pytest.raises(DatasetDamagedError, match=r"train/\w+\.npy is damaged: .*\. Remove the dataset") as raised:
            load_index(data, "train")
        blamed = {"lengths": ("lengths", "names", "buttons")}.get(name, (name,))  # ambiguous which of two is wrong
        assert any(f"{one}.npy" in str(raised.value) for one in blamed), number
        with pytest.raises(DatasetDamagedError):
            Stream(StreamSettings(str(data), "train", batch=1, length=4))


class Payload:
    def __reduce__(self):
        return os.mkdir, ("was executed",)


FILES = {  # replacements of a file's bytes, as functions of the original
    "empty": lambda data, array: b"",
    "half": lambda data, array: data[: len(data) // 2],
    "no header": lambda data, array: data[:20],
    "a pickle": lambda data, array: pickle.dumps(Payload()),
    "objects": lambda data, array: saved(np.array([Payload()], object)),
    "code in the header": lambda data, array: data.replace(b"'descr'", b"exit(1)", 1),
    "8 TiB": lambda data, array: header_only(array, (2**40, *array.shape[1:])),
    "negative": lambda data, array: header_only(array, (-1, *array.shape[1:])),
    "text": lambda data, array: b"no array",
}


def saved(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize("name", ARRAYS)
def test_files_that_are_not_arrays_are_refused(small, tmp_path, monkeypatch, name):
    """No code in them is executed, and no memory is allocated for their declared size (attack H1, L4)."""
    monkeypatch.chdir(tmp_path)
    data = shutil.copytree(small, tmp_path / "data")
    file = data / "index" / "train" / f"{name}.npy"
    before = file.read_bytes(), np.load(file)
    for change in FILES.values():
        file.write_bytes(change(*before))
        with pytest.raises(DatasetDamagedError, match=rf"{name}\.npy is damaged"):
            load_index(data, "train")
    file.unlink()
    os.mkfifo(file)  # opening it would block
    with pytest.raises(DatasetDamagedError, match=rf"{name}\.npy is damaged: it is missing"):
        load_index(data, "train")
    assert os.listdir(tmp_path) == ["data"]


def test_all_blocks_are_checked(small, tmp_path):
    """Invalid values far from the start of an array, which is checked block by block (attack L4)."""
    data = shutil.copytree(small, tmp_path / "data")
    folder = data / "index" / "train"
    frames = 2 * _BLOCK + 9
    for name, shape in {"buttons": (frames, 20), "camera": (frames, 2), "confidence": (frames,)}.items():
        rows = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.load(folder / f"{name}.npy").dtype, shape)
        rows[-1] = 1
    np.save(folder / "lengths.npy", np.array([frames - 4, 4]))
    assert load_index(data, "train").buttons[-1, 3] == 1
    rows[-2] = np.nan
    rows.flush()
    with pytest.raises(DatasetDamagedError, match=rf"confidence.*in frames {2 * _BLOCK} and after"):
        load_index(data, "train")
