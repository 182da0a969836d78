"""Random access to the records of a split, with a bounded number of open shards.

A process keeps an LRU cache of readers, whose size is a share of what RLIMIT_NOFILE allows: however many shards there
are and however long a run takes, it does not run out of file descriptors.
"""

import errno
import itertools
import os
import resource
import sys
import threading
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from array_record.python.array_record_module import ArrayRecordReader
from google.protobuf.message import DecodeError
from tensorflow_datasets.core.features import FeaturesDict

from vpt_jax.data.errors import DatasetDamagedError, OpenFilesError

_RESERVED = 64  # descriptors that are left to JAX, Grain's shared memory (40 at times) and checkpoints
_SHARE, _LEAST, _MOST = 4, 2, 4096  # a quarter of the others
_LIMITS = (errno.EMFILE, errno.ENFILE)
_UNREADABLE = (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, DecodeError)


class RecordSource(Sequence):
    """The records of a split: `source[i]["frames"]`. Shards are opened when first read from, in whichever process.

    Pickles in a few kilobytes.
    """

    def __init__(self, shards: Sequence[Path], lengths: Sequence[int], features: FeaturesDict) -> None:
        """`lengths`: how many records each shard has; `features`: of a record."""
        self.shards, self.lengths, self._features = tuple(shards), tuple(lengths), features
        self._ends = list(itertools.accumulate(self.lengths))
        self._token = next(_tokens)
        weakref.finalize(self, _readers.drop, self._token)

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.shards, self.lengths, self._features)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: Any) -> Any:
        """The values of a record, by feature. Raises `DatasetDamagedError`, `OpenFilesError` and `IndexError`."""
        number = number.__index__()
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        shard = bisect_right(self._ends, number)
        place = number - (self._ends[shard - 1] if shard else 0)
        try:
            record = self._reader(shard).read([place])[0]
            return self._features.deserialize_example_np(record)
        except DatasetDamagedError:
            raise
        except _UNREADABLE as error:  # RuntimeError: a checksum is wrong
            raise DatasetDamagedError(f"{self.shards[shard]}, record {place} of the shard: {error}") from error

    def __getitems__(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """Several records."""
        return [self[number] for number in numbers]

    def check_shards(self) -> None:
        """Opens every shard and counts its records. Raises `DatasetDamagedError` and `OpenFilesError`."""
        for shard in range(len(self.shards)):
            self._reader(shard)

    def _reader(self, shard: int) -> ArrayRecordReader:
        return _readers.get((self._token, shard), self.shards[shard], self.lengths[shard])


class _ReaderCache:
    """Readers of the shards that were read from last, of all sources of the process."""

    def __init__(self) -> None:
        self._readers: OrderedDict[tuple[int, int], ArrayRecordReader] = OrderedDict()
        self._lock = threading.RLock()  # a source may be collected, and dropped, at any moment

    def get(self, key: tuple[int, int], shard: Path, length: int) -> ArrayRecordReader:
        """The reader of a shard. One that is dropped is closed when its last user has done."""
        with self._lock:
            if key in self._readers:
                self._readers.move_to_end(key)
                return self._readers[key]
            while len(self._readers) >= max_open_shards():
                self._readers.popitem(last=False)
            try:
                reader = open_reader(shard)
            except OpenFilesError:
                self._readers.clear()
                reader = open_reader(shard)
            if (there := reader.num_records()) != length:
                raise DatasetDamagedError(f"{shard} holds {there} records, and dataset_info.json says {length}")
            self._readers[key] = reader
            return reader

    def drop(self, token: int) -> None:
        """Closes the readers of a source."""
        with self._lock:
            for key in [key for key in self._readers if key[0] == token]:
                del self._readers[key]


_readers, _tokens = _ReaderCache(), itertools.count()


def max_open_shards() -> int:
    """The largest number of shards that a process keeps open."""
    return min(max((allowed_files() - _RESERVED) // _SHARE, _LEAST), _MOST)


def allowed_files() -> int:
    """The process's limit of open files."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if allowed == resource.RLIM_INFINITY else allowed


def open_reader(file: Path) -> ArrayRecordReader:
    """A reader of an intact ArrayRecord file.

    Raises:
        DatasetDamagedError: the file is missing, or is no whole ArrayRecord file.
        OpenFilesError: the process has too many open files.
        OSError: the file may not be read.
    """
    try:
        os.close(os.open(file, os.O_RDONLY))  # the reader itself does not say why it cannot open a file
        reader = ArrayRecordReader(str(file), options="readahead_buffer_size:0", file_reader_buffer_size=2**15)
        if not reader.ok():
            _explain(reader, file)
    except FileNotFoundError:
        raise DatasetDamagedError(f"{file} is missing") from None
    except OSError as error:
        if error.errno not in _LIMITS:
            raise
        raise OpenFilesError(
            error.errno,
            f"too many open files: this process may open {allowed_files()}. Raise the limit (ulimit -n 4096), then run "
            "the same command again. Nothing is damaged. The file that could not be opened",
            str(file),
        ) from error
    return reader


def _explain(reader: ArrayRecordReader, file: Path) -> NoReturn:
    """Raises what is wrong with a reader."""
    try:
        reader.read([0])
        reason = "no ArrayRecord file, or only a part of one"
    except RuntimeError as error:
        reason = str(error)
    for number in _LIMITS:
        if os.strerror(number) in reason:
            raise OSError(number, os.strerror(number), str(file))
    raise DatasetDamagedError(f"{file} cannot be read: {reason}")
