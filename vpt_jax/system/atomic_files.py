"""Files that jobs leave for their next start: they appear whole, stay whole after a power cut, and damage is noticed.

A rename alone does not do that: after a power cut or a kernel crash, ext4 and XFS may show the new name with an empty
or a short file. So contents go to the disk (fsync) before the rename, and the name after it.
"""

import errno
import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vpt_jax.system.workers import unique_name

_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # some network file systems have no fsync of folders


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a temporary path to write a file to, which gets its name once it is whole and on the disk.

    An error in the block removes the temporary file and leaves what was under the name.
    """
    writing = unique_name(path)
    try:
        yield writing
        publish(writing, path)
    except BaseException:
        writing.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, atomically."""
    with atomic_write(path) as writing:
        writing.write_text(text, encoding="utf-8")


def publish(written: Path, path: Path) -> None:
    """Renames a file or a folder to `path`, after all of it is on the disk."""
    _sync_tree(written)
    written.rename(path)
    _sync(path.parent)


def _sync_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            _sync_tree(inner)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """The value of a JSON file, or None if there is no such file or it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # ValueError: of JSON, and of UTF-8
        return None


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an `.npz` file, or None if there is no such file or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (FileNotFoundError, EOFError, ValueError, TypeError, KeyError, NotImplementedError):
        return None
    except (zipfile.BadZipFile, zlib.error, AttributeError, RuntimeError):  # AttributeError: an .npy is no archive
        return None
