"""Room in shared memory (/dev/shm) for the batches that reading processes hand over.

Grain's workers write batches there. Containers often have 64 MB of it (Docker's default), and a process that writes
more than there is dies of SIGBUS, which names no cause.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps it


class Reading(NamedTuple):
    """Workers and buffers that read batches ahead; the batches do not depend on them."""

    workers: int  # processes; 0: the program itself reads
    ahead: int  # batches that each worker reads before they are asked for


def batches_in_flight(reading: Reading) -> int:
    """The most batches that lie in shared memory at a time (measured with Grain 0.2).

    Each worker has a queue, and a buffer in the program, of `ahead` batches each, and one batch on its way into either;
    the program works on two.
    """
    return reading.workers * (2 * reading.ahead + 2) + 2


def fit_shared_memory(wanted: Reading, batch_bytes: int, folder: Path = SHARED_MEMORY) -> Reading:
    """The same, or with smaller buffers, fewer workers or none, if the batches would not fit; it is said on stderr."""
    if not (wanted.workers and folder.is_dir()):
        return wanted
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    choices = [wanted, *(Reading(workers, 1) for workers in range(wanted.workers, 0, -1))]
    chosen = next((one for one in choices if batches_in_flight(one) * batch_bytes <= free), Reading(0, wanted.ahead))
    if chosen != wanted:
        need = batches_in_flight(wanted) * batch_bytes
        instead = f"{chosen.workers} of them with smaller buffers read" if chosen.workers else "this process reads"
        print(
            f"{folder} has {_megabytes(free)} free, and {wanted.workers} reading process(es) with batches of "
            f"{_megabytes(batch_bytes)} need {_megabytes(need)}: {instead}, which may be slower and changes nothing "
            f"else. To have it faster, give more shared memory (docker run --shm-size={_gigabytes(need)}g; Kubernetes: "
            f"an emptyDir of medium Memory mounted at {folder}), or use smaller batches",
            file=sys.stderr,
            flush=True,
        )
    return chosen


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _gigabytes(size: int) -> int:
    return -(-size // 10**9) + 1
