"""What is said when the disk does not do as a run needs."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained(folder: Path, kind: type[Exception]) -> Iterator[None]:
    """Raises errors of the system as `kind`, which tells what to do; `folder` is where the run writes."""
    try:
        yield
    except OSError as error:
        raise kind(_explain(error, folder)) from error


def _explain(error: OSError, folder: Path) -> str:
    full = error.errno in _FULL
    ours = isinstance(error.filename, str) and Path(error.filename).is_relative_to(folder)
    why = f"cannot write to {folder}: {error}" if full or ours else str(error)
    return f"{why}; what is done is kept: {'make room, and ' if full else ''}run the same command again"
