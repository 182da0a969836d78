"""Bounded reading of MCAP files: messages of some topics in the order of the file, metadata and attachments.

`mcap`'s own readers decompress a chunk to whatever size it claims, and need the index at the end of the file. This one
goes through the file once, verifies the checksums, and holds one chunk at a time.
"""

import dataclasses
import io
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vpt_jax.recording import BrokenRecordingError
from vpt_jax.system.errors import missing_package

MAX_RECORD = 2**28  # bytes of a record in the file, and of a decompressed chunk; writers make chunks of a few MB


class Message(NamedTuple):
    """A message of a topic: JSON bytes, and the time at which it was logged."""

    topic: str
    log_time: int  # nanoseconds since 1970
    data: bytes


class Metadata(NamedTuple):
    """Named texts about a file."""

    name: str
    values: dict[str, str]


class Attachment(NamedTuple):
    """A named file within the file."""

    name: str
    data: bytes


Record = Message | Metadata | Attachment


def require_mcap() -> Any:
    """The `mcap` package. Raises `MissingPackageError`."""
    try:
        import mcap.reader
        import mcap.records
        import mcap.stream_reader
        import mcap.writer
    except ImportError as error:
        raise missing_package("mcap", "owa") from error
    return mcap


def read_mcap(path: Path, topics: frozenset[str]) -> Iterator[Record]:
    """Reads messages of `topics`, metadata and attachments, in the order of the file.

    Raises:
        BrokenRecordingError: "missing actions", there is no such file; "unreadable actions", it is not an MCAP file, is
            cut short or damaged; "absurd size", a record or chunk exceeds `MAX_RECORD`.
        MissingPackageError: `mcap` is not installed.
    """
    mcap = require_mcap()
    if not path.is_file():
        raise BrokenRecordingError(path, "missing actions", "there is no such file")
    with path.open("rb") as stream:
        reader = mcap.stream_reader.StreamReader(stream, emit_chunks=True, record_size_limit=MAX_RECORD)
        records = _expand(mcap, path, reader.records)
        names: dict[int, str] = {}
        while (record := _next(mcap, path, records)) is not None:
            if isinstance(record, mcap.records.Channel):
                names[record.id] = record.topic
            elif isinstance(record, mcap.records.Message):
                if (topic := names.get(record.channel_id)) in topics:
                    yield Message(topic, record.log_time, record.data)
            elif isinstance(record, mcap.records.Metadata):
                yield Metadata(record.name, dict(record.metadata))
            elif isinstance(record, mcap.records.Attachment):
                yield Attachment(record.name, record.data)


def _next(mcap: Any, path: Path, records: Iterator[Any]) -> Any:
    """The next record, or None; turns the errors of damaged files into ours."""
    try:
        return next(records, None)
    except mcap.exceptions.RecordLengthLimitExceeded as error:
        raise BrokenRecordingError(path, "absurd size", str(error)) from error
    except mcap.exceptions.EndOfFile as error:
        remedy = "the file is cut short; `mcap recover` of Foxglove's command line repairs it"
        raise BrokenRecordingError(path, "unreadable actions", remedy) from error
    except (mcap.exceptions.McapError, struct.error, ValueError, KeyError, OverflowError, MemoryError) as error:
        raise BrokenRecordingError(path, "unreadable actions", f"not an intact MCAP file: {error}") from error


def _expand(mcap: Any, path: Path, records: Iterator[Any]) -> Iterator[Any]:
    """Records of the file, with those of chunks in their place."""
    for record in records:
        if not isinstance(record, mcap.records.Chunk):
            yield record
            continue
        if record.uncompressed_size > MAX_RECORD:
            detail = f"a chunk holds {record.uncompressed_size:,} bytes, and up to {MAX_RECORD:,} are read"
            raise BrokenRecordingError(path, "absurd size", detail)
        plain = dataclasses.replace(record, compression="", data=_decompress(record))
        yield from mcap.stream_reader.breakup_chunk(plain, validate_crc=True)


def _decompress(chunk: Any) -> bytes:
    """Bytes of a chunk, of which no more are decompressed than it states. Raises `ValueError`."""
    size = chunk.uncompressed_size
    data = bytes(chunk.data)
    if chunk.compression == "zstd":
        import zstandard

        try:
            data = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True).read(size + 1)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
    elif chunk.compression == "lz4":
        import lz4.frame

        try:
            data = lz4.frame.LZ4FrameDecompressor().decompress(data, size + 1)
        except (RuntimeError, EOFError) as error:
            raise ValueError(str(error)) from error
    elif chunk.compression:
        raise ValueError(f"unknown compression {chunk.compression!r}")
    if len(data) != size:
        raise ValueError(f"a chunk states {size:,} bytes and holds another number")
    return data


def parse_message(path: Path, message: Message, limit: int) -> dict[str, Any]:
    """The fields of a JSON message of up to `limit` bytes. Raises `BrokenRecordingError`."""
    where = f"topic {message.topic!r} at {message.log_time} ns"
    if len(message.data) > limit:
        raise BrokenRecordingError(path, "absurd size", f"{where}: {len(message.data):,} bytes")
    try:
        fields = json.loads(message.data)
    except (ValueError, RecursionError) as error:
        raise BrokenRecordingError(path, "bad json", f"{where}: {error}") from error
    if not isinstance(fields, dict):
        raise BrokenRecordingError(path, "bad json", f"{where}: it is not an object")
    return fields
