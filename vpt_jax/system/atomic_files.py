"""Atomic writes: write to a temporary file, fsync, rename. Files appear complete and survive a power cut.

A rename alone is not enough: after a power cut or a kernel crash, ext4 and XFS may show the new name with an empty or
short file. So the contents are flushed to disk (fsync) before the rename, and the directory entry after it. The readers
return None for files that are damaged nevertheless.
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

from vpt_jax.system.workers import temporary_path

_NO_FSYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # some network file systems have no fsync of folders


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Atomic write: yields a temporary path, and publishes it as `path` (fsync, then rename) when the block ends.

    An exception in the block removes the temporary file and leaves an existing `path` unchanged.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        publish(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically (temporary file, fsync, rename)."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def publish(source: Path, path: Path) -> None:
    """Rename a file or folder to `path` durably: fsync its whole tree, rename it, fsync the parent folder."""
    _fsync_tree(source)
    source.rename(path)
    _fsync(path.parent)


def _fsync_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for child in path.iterdir():
            _fsync_tree(child)
    _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FSYNC:
            raise
    finally:
        os.close(descriptor)


def read_json(path: Path) -> Any:
    """The value of a JSON file, or None if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # ValueError: invalid JSON or invalid UTF-8
        return None


def read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an `.npz` file, or None if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)
    except (FileNotFoundError, EOFError, ValueError, TypeError, KeyError, NotImplementedError):
        return None
    except (zipfile.BadZipFile, zlib.error, AttributeError, RuntimeError):  # AttributeError: an .npy is not an archive
        return None
