"""Dry run of a contractor download: estimated pairs, hours and bytes of an index, by requests for a sample of pairs."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from vpt_jax.curation.download.contractor_index import SUFFIXES, Pair
from vpt_jax.curation.download.http_client import FetchError, GoneError
from vpt_jax.curation.download.integrity import mp4_duration
from vpt_jax.curation.download.transfer import Transfer

SAMPLE = 200  # maximal number of pairs that are requested


class PairInfo(NamedTuple):
    """Availability, size and duration of a pair, as stated by the server."""

    state: str  # "available", "gone" or "failed"
    size: int = 0  # bytes of both files
    seconds: float | None = None  # duration of the video; None if its header does not state it


def survey(pairs: Sequence[Pair], transfer: Transfer, connections: int) -> str:
    """Requests sizes and durations of all pairs, or of a random sample of `SAMPLE`; returns a summary as text."""
    rng = np.random.default_rng(0)
    sample = sorted(rng.choice(len(pairs), SAMPLE, replace=False)) if len(pairs) > SAMPLE else range(len(pairs))
    with ThreadPoolExecutor(connections) as pool:
        try:
            infos = list(pool.map(lambda number: probe_pair(pairs[number], transfer), sample))
        finally:
            transfer.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return describe(infos, len(pairs))


def probe_pair(pair: Pair, transfer: Transfer) -> PairInfo:
    """Requests the file sizes of a pair, and the few hundred bytes of its video that state the duration."""
    try:
        jsonl, mp4 = (transfer.with_retries(partial(_size, pair.url(suffix), transfer)) for suffix in SUFFIXES)
        seconds = transfer.with_retries(lambda: _duration(pair.url(".mp4"), mp4, transfer))
    except GoneError:
        return PairInfo("gone")
    except FetchError:
        return PairInfo("failed")
    return PairInfo("available", jsonl + mp4, seconds)


def _size(url: str, transfer: Transfer) -> int:
    _, size = transfer.http_client.read_range(url, 0, 1)
    if size is None:
        raise FetchError("the server does not state the size of the file", retryable=False)
    return size


def _duration(url: str, size: int, transfer: Transfer) -> float | None:
    try:
        return mp4_duration(lambda offset, count: transfer.http_client.read_range(url, offset, count)[0], size)
    except ValueError:
        return None
    except FetchError as error:
        if error.retryable:
            raise
        return None  # for example a server without range requests, which did state the size


def describe(infos: Sequence[PairInfo], pairs: int) -> str:
    """Summary of the sample, and the total of `pairs` pairs: exact if all stated their size, else extrapolated."""
    available = [info for info in infos if info.state == "available"]
    durations = [info.seconds for info in available if info.seconds is not None]
    gone, failed = (sum(info.state == state for info in infos) for state in ("gone", "failed"))
    sample = "all" if len(infos) == pairs else f"{len(infos):,} randomly sampled of"
    summary = (
        f"requested {sample} {pairs:,} pairs: {len(available):,} available, {gone:,} gone, {failed:,} unanswered; "
        f"{len(durations):,} videos state their duration in the header"
    )
    if not available:
        return f"{summary}. That is too little to estimate the total"
    number = pairs * len(available) / (len(available) + gone)  # pairs without an answer count like the others
    exact = len(durations) in (0, len(available)) and len(available) + gone == pairs
    hours = f"{number * float(np.mean(durations)) / 3600:,.2f} hours" if durations else "hours unknown"
    size = number * float(np.mean([info.size for info in available]))
    total = f"{number:,.0f} pairs, {hours}, {size / 1e9:,.3f} GB"
    return f"{summary}\n{'total' if exact else 'estimated total'}: {total}"
