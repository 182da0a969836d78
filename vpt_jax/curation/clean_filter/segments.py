"""From labels of single frames to what of a video counts (paper, appendix A.2). Nothing but arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool


@dataclass(frozen=True)
class Rules:
    """What counts (fields: configs/filter.py)."""

    kernel: int = 7  # frames, odd
    min_seconds: float = 5.0
    min_share: float = 0.8  # of a video's frames, as they were labelled: before the median filter


class Span(NamedTuple):
    """Consecutive clean frames, in seconds from the first one of the video."""

    start: float
    end: float
    clean: float  # share of its frames that were labelled clean by themselves, before smoothing


class Verdict(NamedTuple):
    """What of a video counts, and why not more."""

    share: float  # of its frames that were labelled clean by themselves, before smoothing
    spans: list[Span]  # none if it is dropped
    reason: str  # why it is dropped; empty if it is kept


def judge(clean: Bool[np.ndarray, " n"], times: Sequence[float], rules: Rules) -> Verdict:
    """What counts of a video whose frames are clean or not.

    The order is the paper's, as we recall it: videos are dropped by the share of clean labels, and the median filter
    then smooths those of the rest.

    Args:
        clean: label of each frame that was looked at.
        times: when each is shown, in seconds, and last the end: a label holds until the next frame.
        rules: what counts.
    """
    share = float(clean.mean()) if len(clean) else 0.0
    if share < rules.min_share:
        return Verdict(share, [], f"{share:.0%} of its frames are clean, and {rules.min_share:.0%} are needed")
    smooth = median_filter(clean, rules.kernel)
    spans = [
        Span(times[run.start], times[run.stop], float(clean[run].mean()))
        for run in runs(smooth)
        if times[run.stop] - times[run.start] >= rules.min_seconds - 1e-6
    ]
    return Verdict(share, spans, "" if spans else f"no {rules.min_seconds:g} s in a row are clean")


def median_filter(labels: Bool[np.ndarray, " n"], kernel: int) -> Bool[np.ndarray, " n"]:
    """The label of most of the `kernel` frames around each; beyond both ends the outermost frame goes on."""
    if not len(labels):
        return labels
    padded = np.pad(labels, kernel // 2, mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, kernel).sum(-1) > kernel // 2


def runs(labels: Bool[np.ndarray, " n"]) -> list[slice]:
    """Where the label is true without a break."""
    edges = np.flatnonzero(np.diff(labels.astype(np.int8), prepend=0, append=0)).tolist()
    return [slice(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
