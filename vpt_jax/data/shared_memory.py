"""Prefetch settings of data workers that fit into shared memory (/dev/shm).

Grain's workers pass batches through shared memory. Containers often have 64 MB of it (Docker's default), and a process
that writes more dies of SIGBUS without a message.
"""

import os
import sys
from pathlib import Path
from typing import NamedTuple

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the mount point on Linux


class PrefetchSettings(NamedTuple):
    """Number of data workers and prefetch depth; the batches do not depend on them."""

    workers: int  # processes; 0: the program reads itself
    ahead: int  # batches that each worker prefetches


def batches_in_flight(settings: PrefetchSettings) -> int:
    """Maximum number of batches in shared memory at a time (measured with Grain 0.2).

    Each worker has a queue, and a buffer in the program, of `ahead` batches each, and one batch in transit to each of
    them; the program uses two.
    """
    return settings.workers * (2 * settings.ahead + 2) + 2


def fit_shared_memory(requested: PrefetchSettings, batch_bytes: int, folder: Path = SHARED_MEMORY) -> PrefetchSettings:
    """Reduces buffers, then workers, until the batches fit into shared memory, and warns on stderr if it does."""
    if not (requested.workers and folder.is_dir()):
        return requested
    state = os.statvfs(folder)
    free = state.f_bavail * state.f_frsize
    choices = [requested, *(PrefetchSettings(workers, 1) for workers in range(requested.workers, 0, -1))]
    fitting = (choice for choice in choices if batches_in_flight(choice) * batch_bytes <= free)
    chosen = next(fitting, PrefetchSettings(0, requested.ahead))
    if chosen != requested:
        needed = batches_in_flight(requested) * batch_bytes
        instead = f"{chosen.workers} of them with smaller buffers read" if chosen.workers else "this process reads"
        print(
            f"{folder} has {_megabytes(free)} free, and {requested.workers} data worker(s) with batches of "
            f"{_megabytes(batch_bytes)} need {_megabytes(needed)}: {instead}, which may be slower and changes nothing "
            f"else. To avoid this, give more shared memory (docker run --shm-size={_gigabytes(needed)}g; Kubernetes: "
            f"an emptyDir of medium Memory mounted at {folder}), or use smaller batches",
            file=sys.stderr,
            flush=True,
        )
    return chosen


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _gigabytes(size: int) -> int:
    return -(-size // 10**9) + 1
