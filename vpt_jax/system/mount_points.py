"""Moves a finished folder to its final path by a rename, or by a copy where that path is a mount point.

A Docker volume or a new disk is an empty folder (perhaps with `lost+found`) that nothing can be renamed to, so the
contents are copied into it. A marker file shows that the copy is incomplete; with it, the folder counts as free, so
that the next run copies again.
"""

import errno
import os
import shutil
from pathlib import Path

from vpt_jax.system.atomic_files import publish
from vpt_jax.system.printable import printable
from vpt_jax.system.workers import FolderInUseError

_MARKER = ".vpt_jax-incomplete"  # a unique name: all files next to it are removed before the copy
_FILESYSTEM_ENTRIES = {"lost+found"}  # entries of a newly formatted disk
_COPIED_LAST = "report.json"  # its presence marks a finished folder
# A mount point is busy, or another device; a non-empty folder holds an incomplete copy, or `lost+found`.
_RENAME_ERRORS = {errno.EBUSY, errno.EXDEV, errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM}


def is_free(folder: Path) -> bool:
    """True if results may be written to `folder`: it is missing, empty, or an incomplete copy by `place_folder`.

    Raises:
        NotADirectoryError: `folder` is a file.
    """
    if not folder.exists():
        return True
    names = {path.name for path in folder.iterdir()}
    return _MARKER in names or names <= _FILESYSTEM_ENTRIES


def place_folder(source: Path, out: Path) -> None:
    """Move the folder `source` to `out`, which must be free (`is_free`): atomic rename, or copy to a mount point.

    Raises:
        FolderInUseError: files have been put into `out` in the meantime. Both folders are left unchanged.
    """
    try:
        publish(source, out)
    except OSError as error:
        if error.errno not in _RENAME_ERRORS or not out.is_dir():
            raise
        if not is_free(out):  # the caller's check may be hours old
            found = sorted({path.name for path in out.iterdir()} - _FILESYSTEM_ENTRIES)
            raise FolderInUseError(
                f"{out} holds {printable(found[0])}, which was put there since this run began: move it away and run "
                f"the same command again; what is done is kept in {source}"
            ) from error
        _copy_contents(source, out)
        shutil.rmtree(source)


def _copy_contents(source: Path, out: Path) -> None:
    marker = out / _MARKER
    _copy(None, marker)
    for leftover in out.iterdir():
        if leftover.is_dir() and leftover.name not in _FILESYSTEM_ENTRIES:
            shutil.rmtree(leftover)
        elif not leftover.is_dir() and leftover != marker:
            leftover.unlink()
    files = [path for path in source.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda path: (path.parent == source, path.name == _COPIED_LAST, path)):
        target = out / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(file, target)
    marker.unlink()


def _copy(file: Path | None, target: Path) -> None:
    """Copy a file and fsync the copy, so that it survives a power cut; `file` None: create an empty file."""
    with target.open("wb") as copy:
        if file is not None:
            with file.open("rb") as original:
                shutil.copyfileobj(original, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())
