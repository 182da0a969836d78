"""Content digest of a file: SHA-256 of its bytes, independent of file name and time stamps."""

import hashlib
from pathlib import Path

_FULL_READ_LIMIT = 4 << 20  # bytes: smaller files are hashed completely
_SAMPLE_BYTES, _NUM_SAMPLES = 1 << 16, 16


def file_digest(path: Path, whole: bool = False) -> str:
    """Content digest of a file, 32 hexadecimal digits of SHA-256.

    Of files larger than 4 MiB, the size and 16 evenly spaced samples are hashed, the first at the start and the last at
    the end, so a change that keeps the size and lies between the samples is missed. Another recording or encoding of
    the same size differs in nearly every byte.

    Args:
        path: a file.
        whole: hash all bytes, whatever the size.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(size.to_bytes(8, "big"))
    with path.open("rb") as file:
        if whole or size <= _FULL_READ_LIMIT:
            while data := file.read(1 << 20):
                digest.update(data)
        else:
            for i in range(_NUM_SAMPLES):
                file.seek((size - _SAMPLE_BYTES) * i // (_NUM_SAMPLES - 1))
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:32]
