"""Near-duplicate detection by perceptual hashes (dHash): finds footage that was encoded, scaled or cut differently.

A frame's hash has a bit for each of 8x8 places, set if the picture gets darker to the right there. Small changes of all
pixels, as from another encoder, change a few bits at most.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8, UInt64
from numpy.lib.stride_tricks import sliding_window_view

from vpt_jax.video import FRAME_RATE, Frame

SIDE = 8  # places in a row, and rows
# Maximum Hamming distance between two encodings of one picture, on average over a second. In footage of one game, at
# any offset, different pictures differ by some 20 bits; in 276 pairs of Doom none stayed below 12 for five seconds.
MAX_BITS = 12
MIN_RUN = 5 * FRAME_RATE  # consecutive frames that two episodes must share, or all of a shorter one
MIN_DISTINCT = 0.2  # share of distinct hashes in these frames: static pictures match too easily
_MAX_SAME_HASH = 16  # episodes per hash that are paired: thousands share those of menus and black pictures
_OFFSETS = 4  # offsets at which two episodes are compared


class Copy(NamedTuple):
    """A run of frames that two episodes share."""

    first: int  # index of an episode
    second: int  # index of a later one
    first_start: int  # frames
    second_start: int
    frames: int


def hash_frame(frame: Frame) -> int:
    """The 64-bit dHash of an RGB frame."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, :-1] > small[:, 1:]).tobytes())


def find_copies(hashes: Sequence[UInt64[np.ndarray, " _frames"]]) -> list[Copy]:
    """Finds the longest common run of any two episodes that share footage.

    Two episodes that have an equal hash anywhere are compared frame by frame. So a copy is missed if it was changed so
    much that no frame's hash is the same.
    """
    copies = []
    for (first, second), offsets in _candidates(hashes).items():
        runs = [_longest_match(hashes[first], hashes[second], offset) for offset, _ in offsets.most_common(_OFFSETS)]
        start, frames, offset = max(runs, key=lambda run: run[1])
        if frames >= min(MIN_RUN, len(hashes[first]), len(hashes[second])):
            distinct = np.unique(hashes[first][start : start + frames])
            if len(distinct) >= MIN_DISTINCT * frames:
                copies.append(Copy(first, second, start, start + offset, frames))
    return sorted(copies)


def _candidates(hashes: Sequence[UInt64[np.ndarray, " _frames"]]) -> dict[tuple[int, int], Counter[int]]:
    """Pairs of episodes with equal hashes; for each, the number of equal frames by offset of the second episode."""
    distinct = [np.unique(episode, return_index=True) for episode in hashes]  # of a still picture, its first frame
    keys, places = (np.concatenate(part) for part in zip(*distinct, strict=True))
    episodes = np.repeat(np.arange(len(hashes)), [len(keys_of_episode) for keys_of_episode, _ in distinct])
    order = np.argsort(keys, kind="stable")  # episodes of one key stay in their order
    keys, episodes, places = keys[order], episodes[order], places[order]
    found: dict[tuple[int, int], Counter[int]] = {}
    for apart in range(1, _MAX_SAME_HASH):
        (equal,) = np.nonzero(keys[apart:] == keys[:-apart])
        later = equal + apart
        offsets = places[later] - places[equal]
        for first, second, offset in zip(episodes[equal], episodes[later], offsets, strict=True):
            found.setdefault((int(first), int(second)), Counter())[int(offset)] += 1
    return found


def _longest_match(
    first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " m"], offset: int
) -> tuple[int, int, int]:
    """Start in `first`, and length, of the longest run of matching frames; and the offset."""
    low, high = max(0, -offset), min(len(first), len(second) - offset)
    if high - low < FRAME_RATE:
        return low, 0, offset
    bits = np.bitwise_count(first[low:high] ^ second[low + offset : high + offset])
    start, length = longest_run(sliding_window_view(bits, FRAME_RATE).mean(1) <= MAX_BITS)
    return low + start, length and length + FRAME_RATE - 1, offset


def longest_run(true: Bool[np.ndarray, " n"] | UInt8[np.ndarray, " n"]) -> tuple[int, int]:
    """Start and length of the longest run of true values; (0, 0) if there are none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true.astype(np.int8), [0]])))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    if not len(starts):
        return 0, 0
    best = int(lengths.argmax())
    return int(starts[best]), int(lengths[best])
