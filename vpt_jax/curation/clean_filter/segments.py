"""Clean segments of a video from the labels of its frames (paper, appendix A.2): pure functions on arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy import ndimage


@dataclass(frozen=True)
class SegmentRules:
    """Rules by which segments are selected (fields: configs/filter.py)."""

    median_window: int = 7  # frames, odd
    min_seconds: float = 5.0
    min_share: float = 0.8  # of clean frames in a video, by their labels before the median filter


class Span(NamedTuple):
    """Consecutive clean frames, in seconds from the first frame of the video. Field names are columns on disk."""

    start: float
    end: float
    clean: float  # share of its frames that were labelled clean before smoothing


class SegmentSelection(NamedTuple):
    """The clean spans of a video, or the reason why it is dropped."""

    share: float  # of the video's frames that were labelled clean before smoothing
    spans: list[Span]  # empty if the video is dropped
    reason: str  # why it is dropped; empty if it is kept


def select_segments(clean: Bool[np.ndarray, " n"], times: Sequence[float], rules: SegmentRules) -> SegmentSelection:
    """Selects the clean spans of a video.

    The order is the paper's, as we recall it: videos are dropped by the share of clean labels, and the median filter
    then smooths the labels of the rest.

    Args:
        clean: label of each sampled frame.
        times: start of each sampled frame, in seconds, and last the end: a label holds until the next frame.
        rules: thresholds and the window of the median filter.
    """
    share = float(clean.mean()) if len(clean) else 0.0
    if share < rules.min_share:
        return SegmentSelection(share, [], f"{share:.0%} of its frames are clean, and {rules.min_share:.0%} are needed")
    smooth = median_filter(clean, rules.median_window)
    spans = [
        Span(times[run.start], times[run.stop], float(clean[run].mean()))
        for run in runs(smooth)
        if times[run.stop] - times[run.start] >= rules.min_seconds - 1e-6
    ]
    return SegmentSelection(share, spans, "" if spans else f"no {rules.min_seconds:g} s in a row are clean")


def median_filter(labels: Bool[np.ndarray, " n"], median_window: int) -> Bool[np.ndarray, " n"]:
    """Median filter over the `median_window` frames around each; beyond both ends the outermost label is repeated."""
    return ndimage.median_filter(labels, median_window, mode="nearest")


def runs(labels: Bool[np.ndarray, " n"]) -> list[slice]:
    """Run-length encoding: a slice for every run of consecutive true labels."""
    edges = np.flatnonzero(np.diff(labels.astype(np.int8), prepend=0, append=0)).tolist()
    return [slice(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True)]
