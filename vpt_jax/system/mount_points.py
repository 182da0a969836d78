"""Gives a finished folder its final name, also where that is a mount point, to which nothing can be renamed.

A Docker volume or a fresh disk is an empty folder (with `lost+found`, perhaps) that stays where it is: contents are
copied into it. A marker file shows that the copy is not whole yet; with it, the folder counts as free, so that the next
run copies anew.
"""

import errno
import os
import shutil
from pathlib import Path

from vpt_jax.system.atomic_files import publish
from vpt_jax.system.printable import printable
from vpt_jax.system.workers import FolderInUseError

_MARKER = ".vpt_jax-incomplete"  # a name that nobody else gives: what lies beside it is removed
_OF_THE_DISK = {"lost+found"}  # what a new disk holds
_LAST = "report.json"  # by which a finished folder is known
# A mount point is busy, or another device; a folder that is not empty holds what this module left, or `lost+found`.
_NOT_BY_RENAMING = {errno.EBUSY, errno.EXDEV, errno.ENOTEMPTY, errno.EEXIST, errno.EACCES, errno.EPERM}


def is_free(folder: Path) -> bool:
    """True if results may be placed there: there is nothing, an empty folder, or what a stopped `place_folder` left.

    Raises:
        NotADirectoryError: it is a file.
    """
    if not folder.exists():
        return True
    names = {path.name for path in folder.iterdir()}
    return _MARKER in names or names <= _OF_THE_DISK


def place_folder(source: Path, out: Path) -> None:
    """Makes the folder `source` the folder `out`, which `is_free`. At the end `source` is gone.

    Raises:
        FolderInUseError: something has been put into `out` meanwhile. It is left alone, and so is `source`.
    """
    try:
        publish(source, out)
    except OSError as error:
        if error.errno not in _NOT_BY_RENAMING or not out.is_dir():
            raise
        if not is_free(out):  # whoever asked that may have done so hours ago
            found = sorted({path.name for path in out.iterdir()} - _OF_THE_DISK)
            raise FolderInUseError(
                f"{out} holds {printable(found[0])}, which was put there since this run began: move it away and run "
                f"the same command again; what is done is kept in {source}"
            ) from error
        _copy_contents(source, out)
        shutil.rmtree(source)


def _copy_contents(source: Path, out: Path) -> None:
    marker = out / _MARKER
    _copy(None, marker)
    for left_over in out.iterdir():
        if left_over.is_dir() and left_over.name not in _OF_THE_DISK:
            shutil.rmtree(left_over)
        elif not left_over.is_dir() and left_over != marker:
            left_over.unlink()
    files = [path for path in source.rglob("*") if path.is_file()]
    for file in sorted(files, key=lambda path: (path.parent == source, path.name == _LAST, path)):
        place = out / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        _copy(file, place)
    marker.unlink()


def _copy(file: Path | None, place: Path) -> None:
    """A copy that a power cut leaves whole once this returns; of nothing, an empty file."""
    with place.open("wb") as copy:
        if file is not None:
            with file.open("rb") as original:
                shutil.copyfileobj(original, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())
