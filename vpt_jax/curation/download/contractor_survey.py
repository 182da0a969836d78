"""How much an index lists, in pairs, hours and bytes, without fetching it: by asking about some pairs, or all."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import numpy as np

from vpt_jax.curation.download.contractor_index import SUFFIXES, Pair
from vpt_jax.curation.download.http_client import FetchError, GoneError
from vpt_jax.curation.download.integrity import movie_seconds
from vpt_jax.curation.download.transfer import Transfer

SAMPLE = 200  # pairs that are asked about, at most


class Measure(NamedTuple):
    """What a server says about a pair."""

    state: str  # "there", "gone" or "failed"
    size: int = 0  # bytes of both halves
    seconds: float | None = None  # of film; None if its header does not tell


def survey(pairs: Sequence[Pair], transfer: Transfer, connections: int) -> str:
    """What there is, in words, and how it was found out."""
    rng = np.random.default_rng(0)
    drawn = sorted(rng.choice(len(pairs), SAMPLE, replace=False)) if len(pairs) > SAMPLE else range(len(pairs))
    with ThreadPoolExecutor(connections) as pool:
        try:
            measures = list(pool.map(lambda number: measure(pairs[number], transfer), drawn))
        finally:
            transfer.stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
    return describe(measures, len(pairs))


def measure(pair: Pair, transfer: Transfer) -> Measure:
    """Asks for the sizes of a pair, and for the few hundred bytes of its film that tell the length."""
    try:
        jsonl, mp4 = (transfer.retried(partial(_size, pair.url(suffix), transfer)) for suffix in SUFFIXES)
        seconds = transfer.retried(lambda: _seconds(pair.url(".mp4"), mp4, transfer))
    except GoneError:
        return Measure("gone")
    except FetchError:
        return Measure("failed")
    return Measure("there", jsonl + mp4, seconds)


def _size(url: str, transfer: Transfer) -> int:
    _, size = transfer.bodies.read_part(url, 0, 1)
    if size is None:
        raise FetchError("the server does not say how long the file is", again=False)
    return size


def _seconds(url: str, size: int, transfer: Transfer) -> float | None:
    try:
        return movie_seconds(lambda place, count: transfer.bodies.read_part(url, place, count)[0], size)
    except ValueError:
        return None
    except FetchError as error:
        if error.again:
            raise
        return None  # a server that knows no ranges, for one; it told the size


def describe(measures: Sequence[Measure], pairs: int) -> str:
    """The totals of so many pairs, by what is known of some of them."""
    there = [measure for measure in measures if measure.state == "there"]
    timed = [measure.seconds for measure in there if measure.seconds is not None]
    gone, failed = (sum(measure.state == state for measure in measures) for state in ("gone", "failed"))
    sample = "all" if len(measures) == pairs else f"{len(measures):,} pairs, drawn at random, of"
    how = (
        f"asked about {sample} {pairs:,} pairs: {len(there):,} are there, {gone:,} gone, {failed:,} did not answer; "
        f"{len(timed):,} films told their length in their header"
    )
    if not there:
        return f"{how}. That is too little to tell the total"
    number = pairs * len(there) / (len(there) + gone)  # those that did not answer are taken to be as the others
    exact = len(timed) in (0, len(there)) and len(there) + gone == pairs
    hours = f"{number * float(np.mean(timed)) / 3600:,.2f} hours" if timed else "hours unknown"
    size = number * float(np.mean([measure.size for measure in there]))
    total = f"{number:,.0f} pairs, {hours}, {size / 1e9:,.3f} GB"
    return f"{how}\n{'in all' if exact else 'by that, all are about'}: {total}"
