"""One line for errors of the disk (full, over quota, read-only, forbidden): the folder, and what to do.

Libraries wrap them, or keep the words alone, so the whole chain of an exception is searched.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_OPEN_FILES = "allow more (ulimit -n 65536), or run fewer workers"
_ROOM = "make room there, or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: "allow larger files (ulimit -f), or choose another folder",
    errno.EROFS: "mount it for writing, or choose another folder",
    errno.EACCES: "change who may read and write it (ls -ld), or choose another folder",
    errno.EPERM: "change who may write it (ls -ld, lsattr -d), or choose another folder",
    errno.EIO: "check the disk (dmesg)",
    errno.ESTALE: "mount the network disk anew",
    errno.ENOTDIR: "a file is in the place of a folder: remove it, or choose another folder",
    errno.EISDIR: "a folder is in the place of a file: remove it, or choose another name",
    errno.EEXIST: "something else is in its place: remove it, or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOENT: "make the folder above it, or choose another folder",
    errno.EMFILE: _OPEN_FILES,
    errno.ENFILE: _OPEN_FILES,
    errno.ENOMEM: "end other programs, or run fewer workers",
}
_NO_FILES_FAULT = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # whichever it was, the next would have met it too
_WORDS = {  # as libraries in C++ have them
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
_KEPT = "What is done is kept: run the same command again"
_MISTAKES = (
    AssertionError, AttributeError, ImportError, LookupError, NameError, NotImplementedError, RecursionError,
    SyntaxError, TypeError, UnicodeError, ArithmeticError,
)  # fmt: skip
_NEARLY_FULL = 1 << 20  # bytes free


@contextmanager
def explained(folder: Path, kind: type[Exception]) -> Iterator[None]:
    """Raises errors of the system as `kind`, which tells what to do; `folder` is where the run writes."""
    try:
        yield
    except OSError as error:
        raise kind(explain_disk_error(error, [folder]) or f"{error}. {_KEPT}") from error


def explain_disk_error(error: BaseException, folders: Sequence[str | Path] = ()) -> str | None:
    """The line, or None where the disk is not to blame.

    Args:
        error: what ended the program.
        folders: where it writes; errors that name no file are of the fullest of them.
    """
    for one in _chain(error):
        number, file = _number(one), getattr(one, "filename", None)
        if number is None and isinstance(one, OSError) and _is_full(folders):
            number = errno.ENOSPC  # NumPy: "1024 requested and 512 written"
        if number not in _REMEDIES or (number == errno.ENOENT and not _writes(file, folders)):
            continue
        if number in _NO_FILES_FAULT:
            return f"{os.strerror(number).lower()}: {_REMEDIES[number]}. {_KEPT}"
        place = os.fsdecode(file) if isinstance(file, str | bytes) else str(_fullest(folders) or "the disk")
        what = "read" if isinstance(file, str | bytes) and folders and not _writes(file, folders) else "write to"
        return f"cannot {what} {place}: {os.strerror(number)}; {_REMEDIES[number]}. {_KEPT}"
    return None


def system_error_numbers(error: BaseException) -> set[int]:
    """The numbers (`errno`) that an error and those that led to it have, or have in words."""
    return {number for one in _chain(error) if (number := _number(one)) is not None}


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it.

    What was being handled when a mistake of the program came up did not lead to it: that needs its traceback.
    """
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            handled = None if one.__suppress_context__ or isinstance(one, _MISTAKES) else one.__context__
            waiting += [other for other in (one.__cause__, handled) if other is not None]
            waiting += one.exceptions if isinstance(one, BaseExceptionGroup) else ()


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        return error.errno
    text = str(error).lower()
    return next((number for words, number in _WORDS.items() if words in text), None)


def _writes(file: object, folders: Sequence[str | Path]) -> bool:
    """True if a file lies in one of the folders, or in one that a run puts beside it, as OUT.partial."""
    if not isinstance(file, str | bytes):
        return False
    path = os.path.abspath(os.fsdecode(file))
    return any(path.startswith(os.path.abspath(folder)) or _holds(path, folder) for folder in folders if str(folder))


def _holds(path: str, folder: str | Path) -> bool:
    return Path(os.path.abspath(folder)).is_relative_to(path)  # a folder above it, which cannot be made


def _free(folder: str | Path) -> int | None:
    for there in (Path(folder), *Path(folder).absolute().parents):
        try:
            state = os.statvfs(there)
        except OSError:
            continue
        return state.f_bavail * state.f_frsize
    return None


def _fullest(folders: Sequence[str | Path]) -> str | Path | None:
    return min((folder for folder in folders if str(folder)), key=lambda folder: _free(folder) or 0, default=None)


def _is_full(folders: Sequence[str | Path]) -> bool:
    return any((free := _free(folder)) is not None and free < _NEARLY_FULL for folder in folders if str(folder))
