"""Disk error messages: turns OSErrors (disk full, quota, read-only, permission denied) into one line with the remedy.

Libraries wrap these errors, or keep their text alone, so the whole exception chain is searched.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vpt_jax.system.errors import UserError

_OPEN_FILES = "allow more (ulimit -n 65536), or run fewer workers"
_FREE_SPACE = "make room there, or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EFBIG: "allow larger files (ulimit -f), or choose another folder",
    errno.EROFS: "mount it for writing, or choose another folder",
    errno.EACCES: "change who may read and write it (ls -ld), or choose another folder",
    errno.EPERM: "change who may write it (ls -ld, lsattr -d), or choose another folder",
    errno.EIO: "check the disk (dmesg)",
    errno.ESTALE: "mount the network disk again",
    errno.ENOTDIR: "a file is in the place of a folder: remove it, or choose another folder",
    errno.EISDIR: "a folder is in the place of a file: remove it, or choose another name",
    errno.EEXIST: "something else is in its place: remove it, or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "make the folder above it, or choose another folder",
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
    errno.ENOMEM: "end other programs, or run fewer workers",
}
_NOT_FILE_SPECIFIC = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # any other file would have failed as well
_ERROR_TEXTS = {  # as C++ libraries phrase them
    "no space left on device": errno.ENOSPC,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
    "permission denied": errno.EACCES,
    "quota exceeded": errno.EDQUOT,
    "input/output error": errno.EIO,
    "stale file handle": errno.ESTALE,
    "too many open files": errno.EMFILE,
    "cannot allocate memory": errno.ENOMEM,
}
_RESUME_HINT = "What is done is kept: run the same command again"
_PROGRAM_BUGS = (
    AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError, RecursionError,
    SyntaxError, TypeError, UnicodeError, ArithmeticError,
)  # fmt: skip
_NEARLY_FULL = 1 << 20  # bytes free


@contextmanager
def raise_disk_errors_as(folder: Path, kind: type[Exception]) -> Iterator[None]:
    """Convert an OSError in the block to `kind`, with a message that names the remedy; a `UserError` has one already.

    Args:
        folder: the output folder of the run.
        kind: the exception type to raise.
    """
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise kind(explain_disk_error(error, [folder]) or f"{error}. {_RESUME_HINT}") from error


def explain_disk_error(error: BaseException, folders: Sequence[str | Path] = ()) -> str | None:
    """One-line message for a disk error, or None if the error has another cause.

    Args:
        error: the exception that ended the program.
        folders: its output folders; an error without a file name is attributed to the one with the least free space.
    """
    for one in _exception_chain(error):
        number, file = _errno_of(one), getattr(one, "filename", None)
        if number is None and isinstance(one, OSError) and _is_full(folders):
            number = errno.ENOSPC  # NumPy: "1024 requested and 512 written"
        if number not in _REMEDIES or (number == errno.ENOENT and not _is_output(file, folders)):
            continue
        if number in _NOT_FILE_SPECIFIC:
            return f"{os.strerror(number).lower()}: {_REMEDIES[number]}. {_RESUME_HINT}"
        path = os.fsdecode(file) if isinstance(file, str | bytes) else str(_fullest(folders) or "the disk")
        action = "read" if isinstance(file, str | bytes) and folders and not _is_output(file, folders) else "write to"
        return f"cannot {action} {path}: {os.strerror(number)}; {_REMEDIES[number]}. {_RESUME_HINT}"
    return None


def is_file_specific(error: OSError) -> bool:
    """False if any other file would have failed as well: too many open files, no memory."""
    return _errno_of(error) not in _NOT_FILE_SPECIFIC


def errno_values(error: BaseException) -> set[int]:
    """The `errno` values of an exception and its causes, also where only their text is left."""
    return {number for one in _exception_chain(error) if (number := _errno_of(one)) is not None}


def _exception_chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and its causes (`__cause__`, `__context__`, members of groups).

    The error that was being handled when a bug of the program surfaced is not its cause: a bug needs its traceback.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            handled = None if one.__suppress_context__ or isinstance(one, _PROGRAM_BUGS) else one.__context__
            waiting += [other for other in (one.__cause__, handled) if other is not None]
            waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()


def _errno_of(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return error.errno
    text = str(error).lower()
    return next((number for words, number in _ERROR_TEXTS.items() if words in text), None)


def _is_output(file: object, folders: Sequence[str | Path]) -> bool:
    """True if a file lies in an output folder, or in a folder next to it that a run creates, such as OUT.partial."""
    if not isinstance(file, str | bytes):
        return False
    path = os.path.abspath(os.fsdecode(file))
    return any(
        path.startswith(os.path.abspath(folder)) or _is_ancestor(path, folder) for folder in folders if str(folder)
    )


def _is_ancestor(path: str, folder: str | Path) -> bool:
    return Path(os.path.abspath(folder)).is_relative_to(path)  # a parent folder that cannot be created


def _free_bytes(folder: str | Path) -> int | None:
    """Free space at a folder, or at its nearest existing parent; None if none can be read."""
    for existing in (Path(folder), *Path(folder).absolute().parents):
        try:
            state = os.statvfs(existing)
        except OSError:
            continue
        return state.f_bavail * state.f_frsize
    return None


def _fullest(folders: Sequence[str | Path]) -> str | Path | None:
    return min((folder for folder in folders if str(folder)), key=lambda folder: _free_bytes(folder) or 0, default=None)


def _is_full(folders: Sequence[str | Path]) -> bool:
    return any((free := _free_bytes(folder)) is not None and free < _NEARLY_FULL for folder in folders if str(folder))
