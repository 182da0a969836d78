"""What training reads from a dataset, by Grain in worker processes: streams for a policy, windows for an IDM.

`Stream` gives every batch row one contiguous stream. An epoch is one long sequence: the episodes in shuffled order,
each giving the frames that the null rule keeps. The sequence is cut into `batch` equal runs, and step `s` reads the
`s`-th window of every run. So a row continues where it stopped one step before, and the model's memory is carried on.

`WindowStream` gives every batch row a window of its own, at a random place of an episode or end to end.

What a step reads is a pure function of (settings, step): the position of a training run is one integer, and resuming is
exact with any number of workers or hosts.
"""

import gc
import hashlib
import math
import signal
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Float, Int, UInt8

from vpt_jax.actions import is_null
from vpt_jax.data.batch import Batch
from vpt_jax.data.codecs import decode_frames, frame_shape
from vpt_jax.data.dataset import EpisodeIndex, check_place, load_index, open_records
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.manifest import read_segments
from vpt_jax.data.segments import SegmentIndex, select
from vpt_jax.data.shards import allowed_files
from vpt_jax.data.shared_memory import Reading, fit_shared_memory
from vpt_jax.system.stopping import end_children
from vpt_jax.system.workers import end_with_parent
from vpt_jax.video import FRAME_RATE

NULL_RULES = ("drop", "mask", "keep")
_BYTES_OF_ACTION = 30  # of a step, with `first` and `valid`
_BLOCK = 2**16  # actions looked at together
_WORKERS_NEED = 128  # open files: every array on its way from a worker is two of them


class Window(NamedTuple):
    """Which frames of which episodes one window holds; rows of padding have `real` false."""

    episode: Int[np.ndarray, " t"]
    frame: Int[np.ndarray, " t"]  # position in the episode
    first: Bool[np.ndarray, " t"]
    real: Bool[np.ndarray, " t"]


@dataclass(frozen=True)
class StreamSettings:
    """Everything that decides which frame goes where."""

    dataset: str
    split: str
    batch: int  # rows, over all hosts
    length: int  # frames of a window
    nulls: str = "drop"  # steps that do nothing once binned: "drop" them (the paper), "mask" their loss, "keep" them
    seed: int = 0
    shuffle: bool = True  # of the episodes, anew every epoch; of windows: at random places
    segments: str = ""  # manifest: use only these seconds of these episodes (manifest.py); empty: all there is
    minutes: float = 0.0  # use only so many minutes of play, of episodes drawn once and for all; 0: all there is

    def __post_init__(self) -> None:
        if self.nulls not in NULL_RULES:
            raise ValueError(f"nulls is {self.nulls!r}; choose one of {', '.join(NULL_RULES)}")
        if self.batch < 1 or self.length < 1:
            raise ValueError(f"a stream needs batch >= 1 and length >= 1, not {self.batch} and {self.length}")
        if self.minutes < 0:
            raise ValueError(f"minutes is {self.minutes}; give the minutes of play to use, or 0 for all")


class Stream:
    """The plan of a split's windows, and the reader that follows it. Opens its files anew in every process."""

    element = Batch

    def __init__(self, settings: StreamSettings) -> None:
        self.settings = settings
        if settings.minutes > (there := self.index.lengths.sum() / FRAME_RATE / 60):
            raise ValueError(
                f"{settings.dataset}, split {settings.split!r}: there are {there:.1f} minutes of play, and minutes "
                f"asks for {settings.minutes:g}; give 0 for all"
            )
        if not self.num_frames:
            raise ValueError(
                f"{settings.dataset}, split {settings.split!r}: no frames are left with nulls={settings.nulls!r}"
            )
        self._records = open_records(Path(settings.dataset), settings.split)  # at once: it refuses a damaged dataset

    def __reduce__(self) -> tuple[type, tuple[StreamSettings]]:
        return type(self), (self.settings,)

    @cached_property
    def index(self) -> EpisodeIndex:
        """Episodes and actions of the split; or of its segments, if the settings name some."""
        index = load_index(Path(self.settings.dataset), self.settings.split)
        if not self.settings.segments:
            return index
        return select(index, read_segments(Path(self.settings.segments)), self.settings.split)

    @cached_property
    def null(self) -> Bool[np.ndarray, " frames"]:
        """Which frames of the split do nothing, judged after binning (paper, section on data; not the raw counts)."""
        buttons, camera = self.index.buttons, self.index.camera
        blocks = (slice(start, start + _BLOCK) for start in range(0, len(buttons), _BLOCK))  # mapped: not all at once
        return np.concatenate([is_null(np.asarray(buttons[rows]), np.asarray(camera[rows])) for rows in blocks])

    def actions(self, episode: int) -> tuple[UInt8[np.ndarray, "n 20"], Float[np.ndarray, "n 2"]]:
        """All raw actions of an episode."""
        rows = self.index.rows(episode)
        return np.asarray(self.index.buttons[rows]), np.asarray(self.index.camera[rows])

    @cached_property
    def lengths(self) -> Int[np.ndarray, " episodes"]:
        """How many frames of each episode are used, from its first on: all, unless `minutes` says otherwise."""
        if not self.settings.minutes:
            return self.index.lengths
        budget = round(self.settings.minutes * 60 * FRAME_RATE)
        order = np.random.default_rng(0).permutation(len(self.index.lengths))  # whatever the seed: nested subsets
        used = np.diff(np.minimum(np.cumsum(self.index.lengths[order]), budget), prepend=0)
        return used[np.argsort(order)]

    def kept(self, episode: int) -> Int[np.ndarray, " kept"]:
        """The frames of an episode that the stream shows."""
        if self.settings.nulls != "drop":
            return np.arange(self.lengths[episode])
        return self._not_null(episode)

    def scored(self, episode: int) -> Int[np.ndarray, " scored"]:
        """The frames of an episode that count in the loss."""
        return self._not_null(episode) if self.settings.nulls == "mask" else self.kept(episode)

    def _not_null(self, episode: int) -> Int[np.ndarray, " n"]:
        return np.flatnonzero(~self.null[self.index.rows(episode)][: self.lengths[episode]])

    @cached_property
    def kept_lengths(self) -> Int[np.ndarray, " episodes"]:
        """Frames the stream shows of each episode."""
        return np.array([len(self.kept(episode)) for episode in range(len(self.index.names))], np.int64)

    @cached_property
    def num_episodes(self) -> int:
        """Episodes of which anything is shown."""
        return int((self.kept_lengths > 0).sum())

    @cached_property
    def num_frames(self) -> int:
        """Frames of an epoch."""
        return int(self.kept_lengths.sum())

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps that show every frame once; the last rows may end in padding."""
        return -(-self.num_frames // (self.settings.batch * self.settings.length))

    def window(self, step: int, row: int) -> Window:
        """What `row` reads at `step`, counted from the start of training."""
        epoch, step = divmod(step, self.steps_per_epoch)
        length = self.settings.length
        order, ends = _epoch_order(self, epoch if self.settings.shuffle else None)
        position = (row * self.steps_per_epoch + step) * length + np.arange(length)
        real = position < self.num_frames
        place = np.searchsorted(ends, np.where(real, position, 0), side="right")
        offset = position - (ends - self.kept_lengths[order])[place]
        frame = np.zeros(length, np.int64)
        for i in np.unique(place[real]):
            here = real & (place == i)
            frame[here] = self.kept(order[i])[offset[here]]
        first = (offset == 0) & real
        first[0] |= step == 0
        return Window(order[place], frame, first, real)

    def episodes(self, step: int) -> list[str]:
        """Names of the episodes in a step's batch, over all rows."""
        windows = (self.window(step, row) for row in range(self.settings.batch))
        return sorted({self.index.names[episode] for w in windows for episode in w.episode[w.real]})

    def read(self, step: int, rows: Sequence[int]) -> Batch:
        """The frames and actions of some rows at a step."""
        parts = [self._read_window(self.window(step, row)) for row in rows]
        return Batch(*(np.stack(field) for field in zip(*parts, strict=True)))

    def bytes_read(self, rows: int) -> int:
        """Bytes of what `read` gives for so many rows."""
        return rows * self.settings.length * (self._bytes_of_frame + _BYTES_OF_ACTION)

    @property
    def _bytes_of_frame(self) -> int:
        return math.prod(self.frame_shape)

    def read_episode(self, episode: int, start: int, length: int) -> Batch:
        """One row: the frames that the stream shows of an episode, from the `start`-th on, padded to `length`."""
        frame, place = self.kept(episode)[start : start + length], np.arange(length)
        real, first = place < len(frame), place + start == 0
        window = Window(np.full(length, episode), np.pad(frame, (0, length - len(frame))), first, real)
        return Batch(*(field[None] for field in self._read_window(window)))

    def _read_window(self, window: Window) -> Batch:
        row = self.index.starts[window.episode] + window.frame
        valid = window.real & ~self.null[row] if self.settings.nulls == "mask" else window.real
        real = window.real[:, None]
        return Batch(
            self._read_frames(window),
            self.index.buttons[row] * real,
            self.index.camera[row] * real,
            window.first,
            valid,
        )

    def _read_frames(self, window: Window) -> UInt8[np.ndarray, "t h w 3"]:
        place = self.index.first_frame[window.episode] + window.frame
        chunk, position = np.divmod(place, self.index.chunk_frames)
        record = np.where(window.real, self.index.first_record[window.episode] + chunk, -1)
        frames = np.zeros((len(record), *self.frame_shape), np.uint8)
        for number in np.unique(record[window.real]):
            here = record == number
            frames[here] = self._read_record(number, position[here])
        return frames

    def _read_record(self, number: int, positions: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n h w 3"]:
        shape = self.frame_shape
        with self._naming(number):
            values = self._records[number]
            check_place(self._whole, number, values)
            return decode_frames(values["frames"], values["frame_ends"], positions, shape)

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        """Errors of a record name it: its checksum is wrong, it is another one, or a picture is none."""
        try:
            yield
        except (ValueError, IndexError) as error:
            episode = self._whole.names[np.searchsorted(self._whole.first_record, number, side="right") - 1]
            raise DatasetDamagedError(
                f"{self.settings.dataset}, split {self.settings.split!r}: record {number}, of episode {episode}, "
                f"cannot be read. Remove the dataset and prepare it again. The reason: {error}"
            ) from error

    @cached_property
    def _whole(self) -> EpisodeIndex:
        """The index of the split's episodes, of which `index` may have segments."""
        return self.index.whole if isinstance(self.index, SegmentIndex) else self.index

    @cached_property
    def frame_shape(self) -> tuple[int, ...]:
        """Height, width and channels of a frame: all have those of the first one."""
        with self._naming(0):
            values = self._records[0]
            return frame_shape(values["frames"], values["frame_ends"])

    def fingerprint(self) -> dict[str, Any]:
        """What must not change when training resumes, or the position would mean other frames."""
        names = hashlib.sha256("\n".join(self.index.names).encode() + self.index.lengths.tobytes()).hexdigest()
        return {name: value for name, value in asdict(self.settings).items() if name not in ("dataset", "segments")} | {
            "frame_shape": list(self.frame_shape), "episodes": names[:16], "kept_frames": self.num_frames,
        }  # fmt: skip


class WindowStream(Stream):
    """Windows that each lie within one episode, for a model without memory; use it with `nulls="keep"`.

    Shuffled, every row of every step is drawn anew, each place of a window in the data being equally likely; an epoch
    is as many steps as show as many frames as there are. Not shuffled, the episodes are cut into windows end to end,
    of which the last may be short. What is not `real` is padding at the end of a window.
    """

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps that show as many frames as there are (shuffled), or every window once."""
        if self.settings.shuffle:
            return super().steps_per_epoch
        return -(-int(self._windows.sum()) // self.settings.batch)

    @cached_property
    def _windows(self) -> Int[np.ndarray, " episodes"]:
        """How many windows each episode has: places to draw from, or pieces."""
        length = self.settings.length
        pieces = -(-self.kept_lengths // length)
        places = np.maximum(self.kept_lengths - length + 1, self.kept_lengths > 0)
        return places if self.settings.shuffle else pieces

    def window(self, step: int, row: int) -> Window:
        """What `row` reads at `step`, counted from the start of training."""
        ends, length = np.cumsum(self._windows), self.settings.length
        if self.settings.shuffle:
            number = int(np.random.default_rng((self.settings.seed, step, row)).integers(ends[-1]))
            apart = 1
        else:
            number, apart = step % self.steps_per_epoch * self.settings.batch + row, length
        episode = min(int(np.searchsorted(ends, number, side="right")), len(ends) - 1)
        start = (number - (ends[episode] - self._windows[episode])) * apart
        place = start + np.arange(length)
        real = place < self.kept_lengths[episode]
        return Window(np.full(length, episode), np.where(real, place, 0), np.arange(length) == 0, real)


@lru_cache(maxsize=4)
def _epoch_order(
    stream: Stream, epoch: int | None
) -> tuple[Int[np.ndarray, " episodes"], Int[np.ndarray, " episodes"]]:
    """The episodes in the order of an epoch (None: as stored), and where in the epoch each one ends."""
    order = np.arange(len(stream.kept_lengths))
    if epoch is not None:
        np.random.default_rng((stream.settings.seed, epoch)).shuffle(order)
    return order, np.cumsum(stream.kept_lengths[order])


class Reader(Protocol):
    """What `batches` reads from: a pure function of step and rows, which any process can call."""

    @property
    def element(self) -> Callable[..., Any]:
        """The class of what `read` gives, a named tuple."""
        ...

    def read(self, step: int, rows: Sequence[int]) -> Any:
        """Some rows of what a step needs."""
        ...

    def bytes_read(self, rows: int) -> int:
        """Bytes of what `read` gives for so many rows."""
        ...


class _Steps:
    """One element per step, as Grain's random access source: the rows of this host."""

    def __init__(self, reader: Reader, rows: Sequence[int], start: int, stop: int) -> None:
        self.reader, self.rows, self.start, self.stop = reader, rows, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, i: int) -> Mapping[str, np.ndarray]:
        return self.reader.read(self.start + i, self.rows)._asdict()


def _start_worker(index: int, count: int) -> None:
    end_with_parent()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a scheduler sends it to all: the parent needs data until it saves


def batches(reader: Reader, rows: Sequence[int], start: int, stop: int, workers: int, ahead: int = 2) -> Generator[Any]:
    """What a stream (or another reader) gives from step `start` to `stop`, in order, read ahead by `workers` processes.

    0 workers: this process reads; so it is, or with fewer workers, where shared memory is short, and where the limit of
    open files is too low for workers.

    The order and content do not depend on `workers`. An error in a worker is raised here.
    """
    if workers and allowed_files() < _WORKERS_NEED:
        warnings.warn(
            f"this process may open {allowed_files()} files, too few for worker processes: it reads the data itself. "
            "Raise the limit (ulimit -n 4096) for speed",
            stacklevel=2,
        )
        workers = 0
    if workers:
        workers, ahead = fit_shared_memory(Reading(workers, ahead), reader.bytes_read(len(rows)))
    dataset = grain.MapDataset.source(_Steps(reader, rows, start, stop))
    if not workers:
        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
        iterator = iter(dataset.to_iter_dataset(options))
    else:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain's workers read absl's flags, which only absl.app.run parses
        options = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        prefetch = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=ahead)
        iterator = iter(dataset.to_iter_dataset(options).mp_prefetch(prefetch, worker_init_fn=_start_worker))
    try:
        for element in iterator:
            yield reader.element(**element)
    finally:
        end_children("grain-process-prefetch")
        iterator.close()
        del iterator
        gc.collect()  # Grain's iterator is in a cycle with shared memory, which Python would report as leaked at exit
