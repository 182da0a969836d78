"""The same footage twice, though encoded, scaled or cut differently: by perceptual hashes of its frames.

A frame's hash has a bit for each of 8x8 places: whether the picture gets darker to the right there ("dHash"). Small
changes of all pixels, as of another encoder, change a few bits at most.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8, UInt64

from vpt_jax.video import FRAME_RATE, Frame

SIDE = 8  # places in a row, and rows
MAX_BITS = 8  # that differ in two hashes of one picture
MIN_RUN = 5 * FRAME_RATE  # frames in a row that two episodes share, or all of a shorter one
MIN_DIFFERENT = 0.2  # different hashes in these frames, as a share: where little moves, much looks the same
_MOST_ALIKE = 16  # frames of one hash that are looked at: of menus and black pictures there are thousands
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


def find_copies(hashes: Sequence[UInt64[np.ndarray, " frames"]]) -> list[Copy]:
    """The longest common run of any two episodes that share footage.

    Hashes of one frame a second are looked up among all frames' hashes of later episodes: so where a video was cut does
    not matter. Where some are equal, the episodes are compared frame by frame.
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


def _candidates(hashes: Sequence[UInt64[np.ndarray, " frames"]]) -> dict[tuple[int, int], Counter[int]]:
    """Pairs of episodes with equal hashes, and how many seconds are equal at which offset of the second one."""
    sampled = [of_episode[::FRAME_RATE] for of_episode in hashes]
    keys = np.concatenate(sampled)
    episodes = np.repeat(np.arange(len(hashes)), [len(part) for part in sampled])
    places = np.concatenate([np.arange(len(part)) * FRAME_RATE for part in sampled])
    order = np.argsort(keys, kind="stable")
    keys, episodes, places = keys[order], episodes[order], places[order]
    found: dict[tuple[int, int], Counter[int]] = {}
    for second, of_episode in enumerate(hashes):
        for entry, place in _look_up(keys, of_episode):
            earlier = episodes[entry] < second
            for first, offset in zip(episodes[entry][earlier], place[earlier] - places[entry][earlier], strict=True):
                found.setdefault((int(first), second), Counter())[int(offset)] += 1
    return found


def _look_up(
    keys: UInt64[np.ndarray, " n"], wanted: UInt64[np.ndarray, " frames"]
) -> Iterator[tuple[Int[np.ndarray, " hits"], Int[np.ndarray, " hits"]]]:
    """Numbers of the sorted keys that equal a wanted one, and which one that is, round by round."""
    start, stop = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
    for i in range(_MOST_ALIKE):
        (there,) = np.nonzero(start + i < stop)
        yield start[there] + i, there


def _longest_run(
    first: UInt64[np.ndarray, " n"], second: UInt64[np.ndarray, " m"], offset: int
) -> tuple[int, int, int]:
    """Start in `first`, and length, of the longest run of frames alike; and the offset."""
    low, high = max(0, -offset), min(len(first), len(second) - offset)
    alike = np.bitwise_count(first[low:high] ^ second[low + offset : high + offset]) <= MAX_BITS
    start, length = longest(alike)
    return low + start, length, offset


def longest(true: Bool[np.ndarray, " n"] | UInt8[np.ndarray, " n"]) -> tuple[int, int]:
    """Start and length of the longest run of true values; (0, 0) if there are none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], true.astype(np.int8), [0]])))
    starts, lengths = edges[::2], edges[1::2] - edges[::2]
    if not len(starts):
        return 0, 0
    best = int(lengths.argmax())
    return int(starts[best]), int(lengths[best])
