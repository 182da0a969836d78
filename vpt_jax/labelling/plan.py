"""Labelling plan: assigns windows of videos to steps, and selects the labels to keep (paper, appendix D).

A video is covered by overlapping windows of `window` frames with a stride of half a window. The labels of every
window's middle half are kept, where the model has context on both sides; the first window also labels the frames
before it, the last one those after it.

A *span* is a fixed number of consecutive windows of one video; a step labels a fixed number of spans, of any videos. So
all videos use one compiled program of fixed shapes, and memory does not grow with their length.
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

from vpt_jax.actions.quantizer import Array
from vpt_jax.data.codecs import decode_frames, frame_shape
from vpt_jax.data.dataset import features
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.shards import RecordSource
from vpt_jax.models.idm import TEMPORAL_RADIUS

Tuples = TypeVar("Tuples", bound=tuple)


class Spans(NamedTuple):
    """Batch of spans. Frames beyond the ends of a video are black and not valid."""

    frames: UInt8[Array, "b 2+n+2 h w 3"]  # with two more on each side, for the temporal convolution
    valid: Bool[Array, "b n"]
    origin: Int[Array, "b 2"]  # sampling seed of the video, and index of the span's first window in it


class Labels(NamedTuple):
    """Predicted actions of every frame, with their probabilities."""

    buttons: UInt8[Array, "... keys"]
    camera: Float32[Array, "... axes"]  # movement per step, in the axes' units
    confidence: Float32[Array, "..."]  # probability of the label: product over all keys and axes


@dataclass(frozen=True)
class EncodedVideo:
    """Decoded video, stored at the model's frame size as an ArrayRecord file of chunks in the dataset's format."""

    records: Path
    frames: int
    chunk_frames: int
    sampling_seed: int = 0  # for sampled labels (clips.sampling_seed)


def _open_records(video: EncodedVideo) -> RecordSource:
    return RecordSource([video.records], [-(-video.frames // video.chunk_frames)], features())


@contextmanager
def _error_context(video: EncodedVideo) -> Iterator[None]:
    """Adds the file and the remedy to errors of its records."""
    try:
        yield
    except ValueError as error:
        raise DatasetDamagedError(f"{video.records} is damaged: remove it, then run again. {error}") from error


@dataclass(frozen=True)
class Plan:
    """Assignment of spans to steps: video by video, `rows` spans per step."""

    videos: tuple[EncodedVideo, ...]
    window: int  # frames, divisible by 4
    windows_per_span: int
    rows: int  # spans per step

    batch_type = Spans

    def __post_init__(self) -> None:
        if self.window % 4:
            raise ValueError(
                f"the model was trained on windows of {self.window} frames: labelling needs a multiple of 4"
            )

    @cached_property
    def _spans(self) -> Int[np.ndarray, "spans 2"]:
        """Video index of every span, and its position among the spans of that video."""
        counts = [-(-(self._last_window(video) + 1) // self.windows_per_span) for video in self.videos]
        return np.array([(i, j) for i, count in enumerate(counts) for j in range(count)], np.int64).reshape(-1, 2)

    def _last_window(self, video: EncodedVideo) -> int:
        """Index of the first window that reaches the end of the video."""
        return max(0, -(-(video.frames - self.window) // (self.window // 2)))

    @property
    def num_spans(self) -> int:
        """Number of spans of all videos."""
        return len(self._spans)

    @property
    def steps(self) -> int:
        """Number of steps that label all videos."""
        return -(-self.num_spans // self.rows)

    def read(self, step: int, rows: Sequence[int]) -> Spans:
        """Reads the spans of some rows at a step; rows after the last span are black."""
        half = self.window // 2
        frames = (self.windows_per_span + 1) * half
        parts = []
        for number in (step * self.rows + row for row in rows):
            if number >= len(self._spans):
                black = np.zeros((frames + 2 * TEMPORAL_RADIUS, *self.frame_shape), np.uint8)
                parts.append((black, np.zeros(frames, bool), (0, 0)))
                continue
            index, position = self._spans[number]
            video, start = self.videos[index], position * self.windows_per_span * half
            positions = np.arange(start, start + frames)
            pixels = self._read_frames(video, start - TEMPORAL_RADIUS, start + frames + TEMPORAL_RADIUS)
            parts.append((pixels, positions < video.frames, (video.sampling_seed, position * self.windows_per_span)))
        return Spans(*(np.stack(field) for field in zip(*parts, strict=True)))

    def bytes_read(self, rows: int) -> int:
        """Size in bytes of what `read` returns for a number of rows."""
        frames = (self.windows_per_span + 1) * self.window // 2
        return rows * ((frames + 2 * TEMPORAL_RADIUS) * math.prod(self.frame_shape) + frames + 16)

    def _read_frames(self, video: EncodedVideo, start: int, stop: int) -> UInt8[np.ndarray, "n h w 3"]:
        """Reads frames of a video; black beyond its ends."""
        wanted = np.zeros((stop - start, *self.frame_shape), np.uint8)
        low, high = max(start, 0), min(stop, video.frames)
        source = _open_records(video)
        for number in range(low // video.chunk_frames, -(-high // video.chunk_frames)):
            first = number * video.chunk_frames
            positions = np.arange(max(low, first), min(high, first + video.chunk_frames))
            with _error_context(video):
                record = source[number]
                frames = decode_frames(record["frames"], record["frame_ends"], positions - first, self.frame_shape)
            wanted[positions - start] = frames
        return wanted

    @cached_property
    def frame_shape(self) -> tuple[int, ...]:
        """Height, width and channels of the frames."""
        with _error_context(self.videos[0]):
            record = _open_records(self.videos[0])[0]
            return frame_shape(record["frames"], record["frame_ends"])

    def select_kept(self, step: int, labels: Tuples) -> Tuples:
        """Selects the labels to keep from those of all windows of a step: `[frames, ...]`, video by video, in order.

        Also for other per-frame outputs: any named tuple of arrays `[rows, windows, window, ...]`.
        """
        parts = []
        for row, number in enumerate(range(step * self.rows, min((step + 1) * self.rows, len(self._spans)))):
            index, position = self._spans[number]
            for window in range(self.windows_per_span):
                kept = self._kept(self.videos[index], position * self.windows_per_span + window)
                parts.append([np.asarray(field[row, window])[kept] for field in labels])
        return type(labels)(*(np.concatenate(field) for field in zip(*parts, strict=True)))

    def count_kept(self, step: int) -> int:
        """Number of frames whose labels `select_kept` keeps at a step."""
        spans = self._spans[step * self.rows : (step + 1) * self.rows]
        windows = (
            (self.videos[index], first * self.windows_per_span + i)
            for index, first in spans
            for i in range(self.windows_per_span)
        )
        kept = (self._kept(video, window) for video, window in windows)
        return sum(max(0, part.stop - part.start) for part in kept)

    def _kept(self, video: EncodedVideo, window: int) -> slice:
        """Slice of the frames in a window whose labels are kept."""
        last, quarter = self._last_window(video), self.window // 4
        low = 0 if window == 0 else quarter
        high = video.frames - window * self.window // 2 if window == last else self.window - quarter
        return slice(low, high) if window <= last else slice(0, 0)

    def split_by_video(self, parts: Iterable[Labels]) -> Iterator[Labels]:
        """Regroups the kept labels of all steps by video; holds at most one video and one step in memory."""
        parts = iter(parts)
        buffered: list[Labels] = []
        for video in self.videos:
            while sum(len(part.buttons) for part in buffered) < video.frames:
                buffered.append(next(parts))
            joined = Labels(*(np.concatenate(field) for field in zip(*buffered, strict=True)))
            yield Labels(*(field[: video.frames] for field in joined))
            buffered = [Labels(*(field[video.frames :] for field in joined))]
