"""Random access to the records of a split, with an LRU cache of open shards.

The size of the per-process cache of readers is a fraction of RLIMIT_NOFILE: a process does not run out of file
descriptors, independent of the number of shards and the duration of a run.
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

_RESERVED = 64  # descriptors reserved for JAX, Grain's shared memory (up to 40) and checkpoints
_LIMIT_DIVISOR, _MIN_OPEN, _MAX_OPEN = 4, 2, 4096  # a quarter of the rest is for open shards
_OPEN_FILE_ERRNOS = (errno.EMFILE, errno.ENFILE)
_UNREADABLE = (RuntimeError, ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, DecodeError)


class RecordSource(Sequence):
    """Random access source of a split's records: `source[i]["frames"]`.

    Shards are opened at the first read, in whichever process reads. Pickles to a few kilobytes.
    """

    def __init__(self, shards: Sequence[Path], lengths: Sequence[int], features: FeaturesDict) -> None:
        """Takes the number of records of each shard, `lengths`, and the features of a record."""
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
        position = number - (self._ends[shard - 1] if shard else 0)
        try:
            record = self._reader(shard).read([position])[0]
            return self._features.deserialize_example_np(record)
        except DatasetDamagedError:
            raise
        except _UNREADABLE as error:  # RuntimeError: checksum mismatch
            raise DatasetDamagedError(f"{self.shards[shard]}, record {position} of the shard: {error}") from error

    def __getitems__(self, numbers: Iterable[int]) -> list[dict[str, Any]]:
        """Reads several records."""
        return [self[number] for number in numbers]

    def check_shards(self) -> None:
        """Opens every shard and counts its records. Raises `DatasetDamagedError` and `OpenFilesError`."""
        for shard in range(len(self.shards)):
            self._reader(shard)

    def _reader(self, shard: int) -> ArrayRecordReader:
        return _readers.get((self._token, shard), self.shards[shard], self.lengths[shard])


class _ReaderCache:
    """LRU cache of shard readers, shared by all sources of the process."""

    def __init__(self) -> None:
        self._readers: OrderedDict[tuple[int, int], ArrayRecordReader] = OrderedDict()
        self._lock = threading.RLock()  # garbage collection of a source may call `drop` at any time

    def get(self, key: tuple[int, int], shard: Path, length: int) -> ArrayRecordReader:
        """Returns the reader of a shard. An evicted reader is closed when its last user releases it."""
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
            if (found := reader.num_records()) != length:
                raise DatasetDamagedError(f"{shard} holds {found} records, and dataset_info.json says {length}")
            self._readers[key] = reader
            return reader

    def drop(self, token: int) -> None:
        """Closes the readers of a source."""
        with self._lock:
            for key in [key for key in self._readers if key[0] == token]:
                del self._readers[key]


_readers, _tokens = _ReaderCache(), itertools.count()


def max_open_shards() -> int:
    """Maximum number of shards that a process keeps open."""
    return min(max((open_file_limit() - _RESERVED) // _LIMIT_DIVISOR, _MIN_OPEN), _MAX_OPEN)


def open_file_limit() -> int:
    """Limit of open files of the process (RLIMIT_NOFILE)."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if allowed == resource.RLIM_INFINITY else allowed


def open_reader(file: Path) -> ArrayRecordReader:
    """Opens a reader of an intact ArrayRecord file.

    Raises:
        DatasetDamagedError: the file is missing, or is not a complete ArrayRecord file.
        OpenFilesError: too many open files.
        OSError: the file cannot be read, for example without permission.
    """
    try:
        os.close(os.open(file, os.O_RDONLY))  # the reader itself does not report why it cannot open a file
        reader = ArrayRecordReader(str(file), options="readahead_buffer_size:0", file_reader_buffer_size=2**15)
        if not reader.ok():
            _raise_read_error(reader, file)
    except FileNotFoundError:
        raise DatasetDamagedError(f"{file} is missing") from None
    except OSError as error:
        if error.errno not in _OPEN_FILE_ERRNOS:
            raise
        raise OpenFilesError(
            error.errno,
            f"too many open files: this process may open {open_file_limit()}. Raise the limit (ulimit -n 4096), then "
            "run the same command again. Nothing is damaged. The file that could not be opened",
            str(file),
        ) from error
    return reader


def _raise_read_error(reader: ArrayRecordReader, file: Path) -> NoReturn:
    """Raises the error that made a reader invalid."""
    try:
        reader.read([0])
        reason = "not an ArrayRecord file, or a truncated one"
    except RuntimeError as error:
        reason = str(error)
    for number in _OPEN_FILE_ERRNOS:
        if os.strerror(number) in reason:
            raise OSError(number, os.strerror(number), str(file))
    raise DatasetDamagedError(f"{file} cannot be read: {reason}")
