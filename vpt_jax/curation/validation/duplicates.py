"""The same footage twice, though encoded, scaled or cut differently: by perceptual hashes of its frames.

A frame's hash has a bit for each of 8x8 places: whether the picture gets darker to the right there ("dHash"). Small
changes of all pixels, as of another encoder, change a few bits at most.
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
# That differ between two encodings of one picture, on average over a second. In footage of one game, at any offset,
# unlike pictures differ by some 20 bits; that they stay below 12 for five seconds was not seen in 276 pairs of Doom.
MAX_BITS = 12
MIN_RUN = 5 * FRAME_RATE  # frames in a row that two episodes share, or all of a shorter one
MIN_DIFFERENT = 0.2  # different hashes in these frames, as a share: where little moves, much looks the same
_MOST_ALIKE = 16  # episodes with one hash, of those next to each other: of menus and black pictures there are thousands
_OFFSETS = 4  # places at which two episodes are compared


class Copy(NamedTuple):
    """Frames that two episodes share."""

    first: int  # number of an episode
    second: int  # number of a later one
    first_start: int  # frames
    second_start: int
    frames: int


def hash_frame(frame: Frame) -> int:
    """The 64-bit dHash of an RGB frame."""
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(small[:, :-1] > small[:, 1:]).tobytes())


def find_copies(hashes: Sequence[UInt64[np.ndarray, " _frames"]]) -> list[Copy]:
    """The longest common run of any two episodes that share footage.

    Where two episodes have equal hashes, wherever in them, they are compared frame by frame. So a copy is missed if it
    was changed so much that no frame's hash is the same.
    """
    copies = []
    for (first, second), offsets in _candidates(hashes).items():
        runs = [_longest_run(hashes[first], hashes[second], offset) for offset, _ in offsets.most_common(_OFFSETS)]
        start, frames, offset = max(runs, key=lambda run: run[1])
        if frames >= min(MIN_RUN, len(hashes[first]), len(hashes[second])):
            seen = np.unique(hashes[first][start : start + frames])
            if len(seen) >= MIN_DIFFERENT * frames:
                copies.append(Copy(first, second, start, start + offset, frames))
    return sorted(copies)


def _candidates(hashes: Sequence[UInt64[np.ndarray, " _frames"]]) -> dict[tuple[int, int], Counter[int]]:
    """Pairs of episodes with equal hashes, and at how many frames they are equal for which offset of the second one."""
    distinct = [np.unique(of_episode, return_index=True) for of_episode in hashes]  # where a picture stays, its first
    keys, places = (np.concatenate(part) for part in zip(*distinct, strict=True))
    episodes = np.repeat(np.arange(len(hashes)), [len(of_episode) for of_episode, _ in distinct])
    order = np.argsort(keys, kind="stable")  # episodes of one key stay in their order
    keys, episodes, places = keys[order], episodes[order], places[order]
    found: dict[tuple[int, int], Counter[int]] = {}
    for apart in range(1, _MOST_ALIKE):
        (equal,) = np.nonzero(keys[apart:] == keys[:-apart])
        later = equal + apart
        offsets = places[later] - places[equal]
        for first, second, offset in zip(episodes[equal], episodes[later], offsets, strict=True):
            found.setdefault((int(first), int(second)), Counter())[int(offset)] += 1
    return found


def _longest_run(
    first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " m"], offset: int
) -> tuple[int, int, int]:
    """Start in `first`, and length, of the longest run of frames alike; and the offset."""
    low, high = max(0, -offset), min(len(first), len(second) - offset)
    if high - low < FRAME_RATE:
        return low, 0, offset
    bits = np.bitwise_count(first[low:high] ^ second[low + offset : high + offset])
    start, length = longest(sliding_window_view(bits, FRAME_RATE).mean(1) <= MAX_BITS)
    return low + start, length and length + FRAME_RATE - 1, offset


def longest(true: Bool[np.ndarray, " n"] | UInt8[np.ndarray, " n"]) -> tuple[int, int]:
    """Start and length of the longest run of true values; (0, 0) if there are none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true.astype(np.int8), [0]])))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    if not len(starts):
        return 0, 0
    best = int(lengths.argmax())
    return int(starts[best]), int(lengths[best])
