"""Data loading with Grain workers: contiguous streams for a policy (truncated BPTT), independent windows for an IDM.

`Stream` gives every batch row one contiguous stream. An epoch is one long sequence: the episodes in shuffled order,
each with the frames that the null-action (no-op) filter keeps. The sequence is cut into `batch` equal rows, and step
`s` reads the `s`-th window of every row. So a row continues where it stopped one step before, and the KV cache is
carried over.

`WindowStream` gives every batch row an independent window, at a random position of an episode or in stored order.

The batch of a step is a pure function of (settings, step): the position of a training run is one integer, and resuming
is exact with any number of workers or hosts.
"""

import gc
import hashlib
import math
import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Float, Int, UInt8

from vpt_jax.actions.mapping import ActionMapping
from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.batch import Batch, combine
from vpt_jax.data.captions import Captions, load_captions
from vpt_jax.data.codecs import decode_frames, frame_shape
from vpt_jax.data.dataset import EpisodeIndex, check_record_position, load_index, open_records
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.manifest import read_segments
from vpt_jax.data.segments import SegmentIndex, make_segment_index
from vpt_jax.data.shards import open_file_limit
from vpt_jax.data.shared_memory import PrefetchSettings, fit_shared_memory
from vpt_jax.data.text_tables import TextTable, read_text
from vpt_jax.system.stopping import kill_children
from vpt_jax.system.workers import exit_with_parent
from vpt_jax.video import FRAME_RATE

NULL_RULES = ("drop", "mask", "keep", "drop_3", "drop_21")
# Shortest run of null actions whose frames each rule drops. The paper tried runs of 1, 3 and 21 (recalled).
_DROPPED_RUNS = {"drop": 1, "drop_3": 3, "drop_21": 21}
_NOT_COMPARED = ("dataset", "segments", "mapping", "space", "text")  # settings not in a fingerprint as they are
_BLOCK = 2**16  # actions processed at a time
_WORKERS_NEED = 128  # open files: every array in transit from a worker uses two


class Window(NamedTuple):
    """Episode and frame indices of one window; `real` is false for padding."""

    episode: Int[np.ndarray, " t"]
    frame: Int[np.ndarray, " t"]  # position in the episode
    first: Bool[np.ndarray, " t"]
    real: Bool[np.ndarray, " t"]


@dataclass(frozen=True)
class StreamSettings:
    """Settings that determine the frames of every step and row."""

    dataset: str
    split: str
    batch: int  # rows, over all hosts
    length: int  # frames of a window
    # Null actions after binning: "drop" them (the paper), or only in runs of at least 3 or 21 ("drop_3", "drop_21"),
    # "mask" their loss, or "keep" them.
    nulls: str = "drop"
    seed: int = 0
    shuffle: bool = True  # episodes are reshuffled every epoch; windows are at random positions
    segments: str = ""  # manifest of the seconds of episodes to use (manifest.py); empty: all
    minutes: float = 0.0  # size of a fixed random subset of episodes, in minutes of play; 0: all
    min_confidence: float = 0.0  # the loss of labels of lower confidence is masked; 0: none is
    mapping: ActionMapping | None = None  # of the dataset's actions to `space`; None: they are used as they are
    space: ActionSpace | None = None  # None: the dataset's
    text: TextTable | None = None  # embeddings of the captions; None: batches have no text

    def __post_init__(self) -> None:
        if self.nulls not in NULL_RULES:
            raise ValueError(f"the rule for null actions is {self.nulls!r}; choose one of {', '.join(NULL_RULES)}")
        if self.batch < 1 or self.length < 1:
            raise ValueError(f"a stream needs batch >= 1 and length >= 1, not {self.batch} and {self.length}")
        if self.minutes < 0:
            raise ValueError(f"minutes is {self.minutes}; set it to the minutes of play to use, or to 0 for all")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence is {self.min_confidence}; it is a probability, from 0 to 1")
        if (self.mapping is None) != (self.space is None):
            raise ValueError("an action mapping needs the action space to which it maps, and the reverse")


class Part(NamedTuple):
    """Dataset of a mixture (mixture.py)."""

    name: str
    stream: "Stream"
    share: float  # of the rows of all batches


class Stream:
    """Contiguous streams of a split: the windows of every step, and their reader. Each process opens its own files."""

    batch_type = Batch

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings
        if settings.mapping and settings.space:
            settings.mapping.require_targets(settings.space)
            settings.mapping.require_sources(self.index.space)
        if settings.minutes > (available := self.index.lengths.sum() / FRAME_RATE / 60):
            raise ValueError(
                f"{settings.dataset}, split {settings.split!r}: there are {available:.1f} minutes of play, and minutes "
                f"is {settings.minutes:g}; set it to 0 to use all"
            )
        if not self.num_frames:
            raise ValueError(
                f"{settings.dataset}, split {settings.split!r}: no frames are left with null actions {settings.nulls!r}"
            )
        if settings.min_confidence and not any(len(self.scored(i)) for i in range(len(self.index.names))):
            raise ValueError(
                f"{settings.dataset}, split {settings.split!r}: no label has a confidence of min_confidence, "
                f"{settings.min_confidence:g}, or more; lower it"
            )
        # Opened here, to reject a damaged dataset early
        self._records = open_records(Path(settings.dataset), settings.split)

    def __reduce__(self) -> tuple[type, tuple[StreamSettings]]:
        return type(self), (self.settings,)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The datasets of a mixture; here, the only one."""
        return (Part("", self, 1.0),)

    @property
    def loss_shares(self) -> list[float]:
        """Share of each of `parts` in the frames that count in the loss."""
        return [1.0]

    @property
    def batch_size(self) -> int:
        """Number of rows, over all hosts."""
        return self.settings.batch

    @cached_property
    def index(self) -> EpisodeIndex:
        """Episodes and actions of the split, or of its segments if the settings have a manifest."""
        index = load_index(Path(self.settings.dataset), self.settings.split)
        if not self.settings.segments:
            return index
        return make_segment_index(index, read_segments(Path(self.settings.segments)), self.settings.split)

    @cached_property
    def null(self) -> Bool[np.ndarray, " frames"]:
        """Mask of the split's null actions, determined after binning (paper, section on data; not the raw counts)."""
        # Memory-mapped arrays, so not loaded as a whole
        starts = range(0, len(self.index.buttons), _BLOCK)
        blocks = (self._actions(slice(start, start + _BLOCK)) for start in starts)
        return np.concatenate([self.space.is_null(*actions) for actions in blocks])

    @cached_property
    def space(self) -> ActionSpace:
        """Action space of the stream's actions: the dataset's, or that to which they are mapped."""
        return self.settings.space or self.index.space

    def actions(self, episode: int) -> tuple[UInt8[np.ndarray, "n keys"], Float[np.ndarray, "n axes"]]:
        """Raw actions of an episode: buttons, and movement of the axes in their units."""
        return self._actions(self.index.rows(episode))

    def _actions(
        self, rows: slice | Int[np.ndarray, " n"]
    ) -> tuple[UInt8[np.ndarray, "n keys"], Float[np.ndarray, "n axes"]]:
        buttons, camera = np.asarray(self.index.buttons[rows]), np.asarray(self.index.camera[rows])
        if self.settings.mapping is None:
            return buttons, camera
        return self.settings.mapping.apply(self.index.space, self.space, buttons, camera)

    @cached_property
    def lengths(self) -> Int[np.ndarray, " episodes"]:
        """Number of frames used of each episode, from its start: all, unless limited by `minutes`."""
        if not self.settings.minutes:
            return self.index.lengths
        budget = round(self.settings.minutes * 60 * FRAME_RATE)
        order = np.random.default_rng(0).permutation(len(self.index.lengths))  # not by `seed`: subsets are nested
        used = np.diff(np.minimum(np.cumsum(self.index.lengths[order]), budget), prepend=0)
        return used[np.argsort(order)]

    def kept(self, episode: int) -> Int[np.ndarray, " kept"]:
        """Indices of an episode's frames that the stream yields."""
        if self.settings.nulls not in _DROPPED_RUNS:
            return np.arange(self.lengths[episode])
        null = self.null[self.index.rows(episode)][: self.lengths[episode]]
        return np.flatnonzero(~in_long_runs(null, _DROPPED_RUNS[self.settings.nulls]))

    def scored(self, episode: int) -> Int[np.ndarray, " scored"]:
        """Indices of an episode's frames that contribute to the loss."""
        rows = self.kept(episode)
        if self.settings.nulls == "mask":
            rows = rows[~self.null[self.index.starts[episode] + rows]]
        if not self.settings.min_confidence:
            return rows
        return rows[self._is_confident(self.index.starts[episode] + rows)]

    def _is_confident(self, row: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Mask of the rows whose label is confident enough for the loss."""
        return np.asarray(self.index.confidence[row]) >= self.settings.min_confidence

    @cached_property
    def kept_lengths(self) -> Int[np.ndarray, " episodes"]:
        """Number of frames that the stream yields of each episode."""
        return np.array([len(self.kept(episode)) for episode in range(len(self.index.names))], np.int64)

    @cached_property
    def num_episodes(self) -> int:
        """Number of episodes with at least one frame in the stream."""
        return int((self.kept_lengths > 0).sum())

    @cached_property
    def num_frames(self) -> int:
        """Number of frames of an epoch."""
        return int(self.kept_lengths.sum())

    @cached_property
    def num_scored(self) -> int:
        """Number of frames of an epoch that contribute to the loss."""
        if self.settings.nulls != "mask" and not self.settings.min_confidence:
            return self.num_frames
        return sum(len(self.scored(episode)) for episode in range(len(self.index.names)))

    @cached_property
    def steps_per_epoch(self) -> int:
        """Number of steps that yield every frame once; the last rows may end in padding."""
        return -(-self.num_frames // (self.settings.batch * self.settings.length))

    def window(self, step: int, row: int) -> Window:
        """Frames that batch row `row` reads at step `step` of the training."""
        epoch, step = divmod(step, self.steps_per_epoch)
        length = self.settings.length
        order, ends = _epoch_order(self, epoch if self.settings.shuffle else None)
        position = (row * self.steps_per_epoch + step) * length + np.arange(length)
        real = position < self.num_frames
        place = np.searchsorted(ends, np.where(real, position, 0), side="right")
        offset = position - (ends - self.kept_lengths[order])[place]
        frame = np.zeros(length, np.int64)
        for i in np.unique(place[real]):
            selected = real & (place == i)
            frame[selected] = self.kept(order[i])[offset[selected]]
        first = (offset == 0) & real
        first[0] |= step == 0
        return Window(order[place], frame, first, real)

    def episodes(self, step: int) -> list[str]:
        """Names of the episodes in a step's batch, over all rows."""
        return sorted({name for row in range(self.settings.batch) for name in self.episodes_of_row(step, row)})

    def episodes_of_row(self, step: int, row: int) -> set[str]:
        """Names of the episodes that a batch row reads at a step."""
        window = self.window(step, row)
        return {self.index.names[episode] for episode in window.episode[window.real]}

    def read(self, step: int, rows: Sequence[int]) -> Batch:
        """Reads the frames and actions of some rows at a step."""
        parts = [self._read_window(self.window(step, row)) for row in rows]
        return combine(np.stack, parts)

    def bytes_read(self, rows: int) -> int:
        """Size in bytes of what `read` returns for a number of rows."""
        action = len(self.space.keys) + 4 * len(self.space.axes) + 2  # with `first` and `valid`
        action += 4 * self.settings.text.embedder.features if self.settings.text else 0
        return rows * self.settings.length * (self._bytes_per_frame + action)

    @property
    def _bytes_per_frame(self) -> int:
        return math.prod(self.frame_shape)

    def read_episode(self, episode: int, start: int, length: int) -> Batch:
        """Reads the kept frames of an episode from index `start` as a batch of one row, padded to `length`."""
        frame, place = self.kept(episode)[start : start + length], np.arange(length)
        real, first = place < len(frame), place + start == 0
        window = Window(np.full(length, episode), np.pad(frame, (0, length - len(frame))), first, real)
        return combine(np.stack, [self._read_window(window)])

    def _read_window(self, window: Window) -> Batch:
        row = self.index.starts[window.episode] + window.frame
        valid = window.real & ~self.null[row] if self.settings.nulls == "mask" else window.real
        if self.settings.min_confidence:
            valid = valid & self._is_confident(row)
        buttons, camera = self._actions(row)
        real = window.real[:, None]
        text = read_text(self.settings.text, self._captions, row) * real if self.settings.text else None
        return Batch(self._read_frames(window), buttons * real, camera * real, window.first, valid, text)

    @cached_property
    def _captions(self) -> Captions:
        """Captions of the whole split, by row of its index."""
        return load_captions(Path(self.settings.dataset, "index", self.settings.split), self._full_index.lengths)

    def _read_frames(self, window: Window) -> UInt8[np.ndarray, "t h w 3"]:
        stored = self.index.first_frame[window.episode] + window.frame
        chunk, position = np.divmod(stored, self.index.chunk_frames)
        record = np.where(window.real, self.index.first_record[window.episode] + chunk, -1)
        frames = np.zeros((len(record), *self.frame_shape), np.uint8)
        for number in np.unique(record[window.real]):
            selected = record == number
            frames[selected] = self._read_record(number, position[selected])
        return frames

    def _read_record(self, number: int, positions: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w 3"]:
        shape = self.frame_shape
        with self._error_context(number):
            values = self._records[number]
            check_record_position(self._full_index, number, values)
            return decode_frames(values["frames"], values["frame_ends"], positions, shape)

    @contextmanager
    def _error_context(self, number: int) -> Iterator[None]:
        """Adds the record's number and episode to its errors: wrong checksum, wrong position, or invalid JPEG."""
        try:
            yield
        except (ValueError, IndexError) as error:
            episode = self._full_index.names[np.searchsorted(self._full_index.first_record, number, side="right") - 1]
            raise DatasetDamagedError(
                f"{self.settings.dataset}, split {self.settings.split!r}: record {number}, of episode {episode}, "
                f"cannot be read. Remove the dataset and prepare it again. Reason: {error}"
            ) from error

    @cached_property
    def _full_index(self) -> EpisodeIndex:
        """Index of the whole episodes of the split; `index` may be of segments."""
        return self.index.full_index if isinstance(self.index, SegmentIndex) else self.index

    @cached_property
    def frame_shape(self) -> tuple[int, ...]:
        """Height, width and channels of the frames, from the first one."""
        with self._error_context(0):
            values = self._records[0]
            return frame_shape(values["frames"], values["frame_ends"])

    def fingerprint(self) -> dict[str, Any]:
        """Properties that must be equal when training resumes: else its position would denote other frames."""
        names = hashlib.sha256("\n".join(self.index.names).encode() + self.index.lengths.tobytes()).hexdigest()
        values = asdict(replace(self.settings, mapping=None, space=None, text=None))
        space = {} if self.space == MINERL else {"action_space": self.space.to_dict()}  # earlier runs state none
        left_out = {*_NOT_COMPARED} | (set() if self.settings.min_confidence else {"min_confidence"})
        same = {name: value for name, value in values.items() if name not in left_out} | {
            "frame_shape": list(self.frame_shape), "episodes": names[:16], "kept_frames": self.num_frames, **space,
        }  # fmt: skip
        same |= {"mapping": self.settings.mapping.to_dict()} if self.settings.mapping else {}
        return same | ({"text": list(self.settings.text.embedder[1:])} if self.settings.text else {})


class WindowStream(Stream):
    """Independent windows within single episodes, for a model without memory; use it with `nulls="keep"`.

    Shuffled: every row of every step is sampled independently, uniformly over all window positions; an epoch is the
    number of steps that yield as many frames as the split has. Not shuffled: episodes are cut into consecutive windows,
    the last of which may be short. `real` is false for padding, at the end of a window.
    """

    @cached_property
    def steps_per_epoch(self) -> int:
        """Number of steps that yield as many frames as the split has (shuffled), or every window once."""
        if self.settings.shuffle:
            return super().steps_per_epoch
        return -(-int(self._windows.sum()) // self.settings.batch)

    @cached_property
    def _windows(self) -> Int[np.ndarray, " episodes"]:
        """Number of windows of each episode: positions to sample from (shuffled), or consecutive pieces."""
        length = self.settings.length
        pieces = -(-self.kept_lengths // length)
        positions = np.maximum(self.kept_lengths - length + 1, self.kept_lengths > 0)
        return positions if self.settings.shuffle else pieces

    def window(self, step: int, row: int) -> Window:
        """Frames that batch row `row` reads at step `step` of the training."""
        ends, length = np.cumsum(self._windows), self.settings.length
        if self.settings.shuffle:
            number = int(np.random.default_rng((self.settings.seed, step, row)).integers(ends[-1]))
            stride = 1
        else:
            number, stride = step % self.steps_per_epoch * self.settings.batch + row, length
        episode = min(int(np.searchsorted(ends, number, side="right")), len(ends) - 1)
        start = (number - (ends[episode] - self._windows[episode])) * stride
        place = start + np.arange(length)
        real = place < self.kept_lengths[episode]
        return Window(np.full(length, episode), np.where(real, place, 0), np.arange(length) == 0, real)


def in_long_runs(mask: Bool[np.ndarray, " n"], shortest: int) -> Bool[np.ndarray, " n"]:
    """Part of a mask that lies in runs of at least `shortest` consecutive true values."""
    edges = np.diff(mask, prepend=False, append=False).nonzero()[0]  # a start and an end of every run
    lengths = np.diff(edges)[::2]
    inside = np.zeros(len(mask), bool)
    inside[mask] = np.repeat(lengths >= shortest, lengths)
    return inside


@lru_cache(maxsize=16)  # for the datasets of a mixture
def _epoch_order(
    stream: Stream, epoch: int | None
) -> tuple[Int[np.ndarray, " episodes"], Int[np.ndarray, " episodes"]]:
    """Order of the episodes in an epoch (None: as stored), and the cumulative number of frames after each."""
    order = np.arange(len(stream.kept_lengths))
    if epoch is not None:
        np.random.default_rng((stream.settings.seed, epoch)).shuffle(order)
    return order, np.cumsum(stream.kept_lengths[order])


class BatchReader(Protocol):
    """Source of `batches`: a pure function of step and rows, which any process can call."""

    @property
    def batch_type(self) -> Callable[..., Any]:
        """Named tuple class that `read` returns."""
        ...

    def read(self, step: int, rows: Sequence[int]) -> Any:
        """Reads some rows of a step's batch."""
        ...

    def bytes_read(self, rows: int) -> int:
        """Size in bytes of what `read` returns for a number of rows."""
        ...


class _StepSource:
    """Random access source for Grain: one batch per step, with the rows of this host."""

    def __init__(self, reader: BatchReader, rows: Sequence[int], start: int, stop: int) -> None:
        self.reader, self.rows, self.start, self.stop = reader, rows, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, i: int) -> Mapping[str, np.ndarray]:
        fields = self.reader.read(self.start + i, self.rows)._asdict()
        return {name: values for name, values in fields.items() if values is not None}  # None is no array for Grain


def _init_worker(index: int, count: int) -> None:
    exit_with_parent()
    # Schedulers signal all processes, but the parent needs data until it has saved a checkpoint.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def batches(
    reader: BatchReader, rows: Sequence[int], start: int, stop: int, workers: int, ahead: int = 2
) -> Generator[Any]:
    """Iterates over the batches of a reader from step `start` to `stop`, prefetched by `workers` processes.

    Args:
        reader: a stream, or another reader.
        rows: rows of the batch that this host reads.
        start: first step.
        stop: step after the last one.
        workers: processes; 0: this process reads. Their number is reduced if shared memory is short, and to 0 if the
            limit of open files is too low. Order and content of the batches do not depend on it.
        ahead: batches that each worker prefetches.

    Raises:
        Exception: of a worker, raised again in this process.
    """
    if workers and open_file_limit() < _WORKERS_NEED:
        warnings.warn(
            f"this process may open {open_file_limit()} files, too few for data workers: it reads the data itself. "
            "Raise the limit (ulimit -n 4096) for speed",
            stacklevel=2,
        )
        workers = 0
    if workers:
        workers, ahead = fit_shared_memory(PrefetchSettings(workers, ahead), reader.bytes_read(len(rows)))
    dataset = grain.MapDataset.source(_StepSource(reader, rows, start, stop))
    if not workers:
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
        iterator = iter(dataset.to_iter_dataset(options))
    else:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, which only absl.app.run parses
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        prefetch = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
        iterator = iter(dataset.to_iter_dataset(options).mp_prefetch(prefetch, worker_init_fn=_init_worker))
    try:
        for fields in iterator:
            yield reader.batch_type(**fields)
    finally:
        kill_children("grain-process-prefetch")
        iterator.close()
        del iterator
        gc.collect()  # Grain's iterator is in a cycle with shared memory, which Python would report as leaked at exit
