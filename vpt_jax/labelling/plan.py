"""Which frames of which videos are labelled at a step, and which of the labels count (paper, appendix D).

A video is covered by windows of `window` frames, half a window apart. Of every window the middle half is kept, where
the model sees far to both sides; the first window also gives the frames before, the last one those after.

A *span* is a fixed number of windows of one video that follow one another; a step labels a fixed number of spans, of
whichever videos. So one compiled program serves all videos, and memory does not grow with their length.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from vpt_jax.actions import BUTTONS, Array
from vpt_jax.data.codecs import decode_frames, frame_shape
from vpt_jax.data.dataset import FEATURES
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.shards import RecordSource
from vpt_jax.models.idm import REACH

Tuples = TypeVar("Tuples", bound=tuple)


class Spans(NamedTuple):
    """Frames of some spans. Beyond the ends of a video all is black and not valid."""

    frames: UInt8[Array, "b 2+n+2 h w 3"]  # with two more on each side, for the temporal convolution
    valid: Bool[Array, "b n"]
    origin: Int[Array, "b 2"]  # number of the video, and of the span's first window in it


class Labels(NamedTuple):
    """What was done in every frame, and how sure the model is of it."""

    buttons: UInt8[Array, "... 20"]
    camera: Float32[Array, "... 2"]  # degrees
    confidence: Float32[Array, "..."]  # probability of the label, all 22 choices together


@dataclass(frozen=True)
class Video:
    """A video whose frames are stored at the model's size: an ArrayRecord file of chunks, as a dataset has them."""

    records: Path
    frames: int
    chunk_frames: int
    number: int = 0  # among all videos, of other hosts too


def _open(video: Video) -> RecordSource:
    return RecordSource([video.records], [-(-video.frames // video.chunk_frames)], FEATURES)


@contextmanager
def _naming(video: Video) -> Iterator[None]:
    """An error of a record names its file, and how to go on."""
    try:
        yield
    except ValueError as error:
        raise DatasetDamagedError(f"{video.records} is damaged: remove it, then run again. {error}") from error


@dataclass(frozen=True)
class Plan:
    """What every step labels: the spans video by video, `rows` of them a step."""

    videos: tuple[Video, ...]
    window: int  # frames, divisible by 4
    windows: int  # of a span
    rows: int

    element = Spans

    def __post_init__(self) -> None:
        if self.window % 4:
            raise ValueError(
                f"the model was trained on windows of {self.window} frames: labelling needs a multiple of 4"
            )

    @cached_property
    def _spans(self) -> Int[np.ndarray, "spans 2"]:
        """Video, and position in it, of every span."""
        counts = [-(-(self._last_window(video) + 1) // self.windows) for video in self.videos]
        return np.array([(i, j) for i, count in enumerate(counts) for j in range(count)], np.int64).reshape(-1, 2)

    def _last_window(self, video: Video) -> int:
        """The first window that reaches the end."""
        return max(0, -(-(video.frames - self.window) // (self.window // 2)))

    @property
    def num_spans(self) -> int:
        """Spans of all videos."""
        return len(self._spans)

    @property
    def steps(self) -> int:
        """Steps that label all videos."""
        return -(-self.num_spans // self.rows)

    def read(self, step: int, rows: Sequence[int]) -> Spans:
        """The spans of some rows at a step; rows after the last span are empty."""
        half = self.window // 2
        frames = (self.windows + 1) * half
        parts = []
        for number in (step * self.rows + row for row in rows):
            if number >= len(self._spans):
                black = np.zeros((frames + 2 * REACH, *self.frame_shape), np.uint8)
                parts.append((black, np.zeros(frames, bool), (0, 0)))
                continue
            index, place = self._spans[number]
            video, start = self.videos[index], place * self.windows * half
            here = np.arange(start, start + frames)
            pixels = self._read_frames(video, start - REACH, start + frames + REACH)
            parts.append((pixels, here < video.frames, (video.number, place * self.windows)))
        return Spans(*(np.stack(field) for field in zip(*parts, strict=True)))

    def bytes_read(self, rows: int) -> int:
        """Bytes of what `read` gives for so many rows."""
        frames = (self.windows + 1) * self.window // 2
        return rows * ((frames + 2 * REACH) * math.prod(self.frame_shape) + frames + 16)

    def _read_frames(self, video: Video, start: int, stop: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Frames of a video, black where there are none."""
        wanted = np.zeros((stop - start, *self.frame_shape), np.uint8)
        low, high = max(start, 0), min(stop, video.frames)
        source = _open(video)
        for number in range(low // video.chunk_frames, -(-high // video.chunk_frames)):
            first = number * video.chunk_frames
            positions = np.arange(max(low, first), min(high, first + video.chunk_frames))
            with _naming(video):
                record = source[number]
                frames = decode_frames(record["frames"], record["frame_ends"], positions - first, self.frame_shape)
            wanted[positions - start] = frames
        return wanted

    @cached_property
    def frame_shape(self) -> tuple[int, ...]:
        """Height, width and channels of a frame."""
        with _naming(self.videos[0]):
            record = _open(self.videos[0])[0]
            return frame_shape(record["frames"], record["frame_ends"])

    def keep(self, step: int, labels: Tuples) -> Tuples:
        """Of all windows' labels at a step, those that count: `[frames, ...]`, video by video, in order.

        Of anything else that is said of every frame too: any named tuple of arrays `[rows, windows, window, ...]`.
        """
        parts = []
        for row, number in enumerate(range(step * self.rows, min((step + 1) * self.rows, len(self._spans)))):
            index, place = self._spans[number]
            for window in range(self.windows):
                kept = self._kept(self.videos[index], place * self.windows + window)
                parts.append([np.asarray(field[row, window])[kept] for field in labels])
        return type(labels)(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    def count_kept(self, step: int) -> int:
        """The number of frames whose labels `keep` keeps of a step."""
        spans = self._spans[step * self.rows : (step + 1) * self.rows]
        places = ((self.videos[index], first * self.windows + i) for index, first in spans for i in range(self.windows))
        kept = (self._kept(video, window) for video, window in places)
        return sum(max(0, part.stop - part.start) for part in kept)

    def _kept(self, video: Video, window: int) -> slice:
        """The frames that a window gives, counted from its first one."""
        last, quarter = self._last_window(video), self.window // 4
        low = 0 if window == 0 else quarter
        high = video.frames - window * self.window // 2 if window == last else self.window - quarter
        return slice(low, high) if window <= last else slice(0, 0)

    def by_video(self, parts: Iterable[Labels]) -> Iterator[Labels]:
        """The kept labels of all steps, cut into videos; holds no more than a video and a step of them."""
        parts = iter(parts)
        left = Labels(np.zeros((0, len(BUTTONS)), np.uint8), np.zeros((0, 2), np.float32), np.zeros(0, np.float32))
        for video in self.videos:
            there = [left]
            while sum(len(part.buttons) for part in there) < video.frames:
                there.append(next(parts))
            whole = Labels(*(np.concatenate(field) for field in zip(*there, strict=True)))
            yield Labels(*(field[: video.frames] for field in whole))
            left = Labels(*(field[video.frames :] for field in whole))
