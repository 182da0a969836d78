"""Captions of episodes: which text holds from which frame on, stored beside the index of a dataset.

    DIR/index/SPLIT/captions.parquet    a row for every change: number of the episode, frame, text; absent: no text

The text of a row holds until the next row of its episode; the empty text ends a caption. All text is untrusted: it is
cut to `MAX_TEXT` characters, and unprintable ones become spaces.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Int64

from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.index_arrays import REMEDY
from vpt_jax.data.manifest import MAX_ROWS, dictionary_encode, write_table
from vpt_jax.system.printable import printable, sanitize

FILE = "captions.parquet"
MAX_TEXT = 500  # characters of a caption that are kept
SCHEMA = pa.schema([("episode", pa.int32()), ("frame", pa.int32()), ("text", pa.string())])


class Caption(NamedTuple):
    """Text of an episode from a frame on."""

    frame: int
    text: str  # "": none


class Captions(NamedTuple):
    """Captions of a split; rows are those of its index (`EpisodeIndex.buttons`)."""

    texts: tuple[str, ...]  # distinct; the first is ""
    rows: Int64[np.ndarray, " changes"]  # at which the text changes, ascending from 0
    numbers: Int64[np.ndarray, " changes"]  # of the text from that row on

    def at(self, rows: Int[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """Number of the text at each row; 0: none."""
        return self.numbers[np.searchsorted(self.rows, rows, side="right") - 1]


class CaptionObserver:
    """Collects the field `text` of a recording's records, as a callback of `read_steps`.

    Args:
        steps: range of the steps; frames are counted from its start.
    """

    def __init__(self, steps: slice):
        self.captions: list[Caption] = []
        self._first, self._stop = steps.start or 0, steps.stop

    def observe(self, number: int, record: Mapping[str, Any]) -> None:
        """Adds the text of a step, if it is in the range and differs from that of the step before."""
        if number < self._first or (self._stop is not None and number >= self._stop):
            return
        text = clean_text(record.get("text"))
        if text != (self.captions[-1].text if self.captions else ""):
            self.captions.append(Caption(number - self._first, text))


def clean_text(text: Any) -> str:
    """Text of bounded length with single spaces; "" if it is no string."""
    return " ".join(sanitize(text, MAX_TEXT).split())


def join_captions(parts: Iterable[tuple[Sequence[Caption], int]]) -> list[Caption]:
    """Captions of an episode that is joined from parts, of each its captions and its number of frames."""
    joined: list[Caption] = []
    start = 0
    for captions, frames in parts:
        moved = [Caption(start + frame, text) for frame, text in captions]
        if joined and joined[-1].text and not (moved and moved[0].frame == start):
            moved.insert(0, Caption(start, ""))  # a caption ends with its part
        joined += moved
        start += frames
    return joined


def write_captions(folder: Path, episodes: Sequence[Sequence[Caption]]) -> None:
    """Writes the captions of all episodes, in the order of the index; no file if there are none.

    Args:
        folder: of the split's index.
        episodes: captions of each, by ascending frame.
    """
    rows = ({"episode": i, "frame": frame, "text": text} for i, one in enumerate(episodes) for frame, text in one)
    if any(episodes):
        write_table(folder / FILE, rows, SCHEMA)


def read_captions(folder: Path, lengths: Int64[np.ndarray, " episodes"]) -> list[list[Caption]]:
    """Reads and validates the captions of every episode; empty lists if the split has none.

    Args:
        folder: of the split's index.
        lengths: frames of the episodes.

    Raises:
        DatasetDamagedError: the file is not such a table, or not of these episodes.
    """
    episodes: list[list[Caption]] = [[] for _ in lengths]
    if not (file := folder / FILE).exists():
        return episodes
    table = _read_table(file)
    episode, frame = (table.column(name).to_numpy() for name in ("episode", "frame"))
    known = (episode >= 0) & (episode < len(lengths))
    inside = known & (frame >= 0) & (frame < np.append(lengths, 0)[np.where(known, episode, -1)])
    ascending = (np.diff(episode) > 0) | ((np.diff(episode) == 0) & (np.diff(frame) > 0))
    if not (inside.all() and ascending.all()):
        raise _damaged(file, "frames outside of their episode, or not in order")
    codes, texts = dictionary_encode(table.column("text"))
    cleaned = [clean_text(text) for text in texts] + [""]  # the code of a null is -1
    for i, first, code in zip(episode.tolist(), frame.tolist(), codes.tolist(), strict=True):
        episodes[i].append(Caption(first, cleaned[code]))
    return episodes


def load_captions(folder: Path, lengths: Int64[np.ndarray, " episodes"]) -> Captions:
    """Loads the captions of a split by row of its index. Arguments and errors as of `read_captions`."""
    numbers = {"": 0}
    changes = [
        (start + frame, numbers.setdefault(text, len(numbers)))
        for start, captions in zip((np.cumsum(lengths) - lengths).tolist(), read_captions(folder, lengths), strict=True)
        for frame, text in [*([] if captions and captions[0].frame == 0 else [Caption(0, "")]), *captions]
    ]
    rows, found = np.array(changes, np.int64).T
    return Captions(tuple(numbers), rows, found)


def _read_table(file: Path) -> pa.Table:
    if not file.is_file():  # opening a named pipe would block
        raise _damaged(file, "it is not a file")
    try:
        with pq.ParquetFile(file, read_dictionary=["text"]) as opened:  # stores each distinct text once
            if opened.metadata.num_rows > MAX_ROWS:
                raise _damaged(file, f"more than {MAX_ROWS:,} rows")
            table = opened.read(columns=SCHEMA.names)
        table.validate(full=True)
        if [table.schema.field(name).type for name in ("episode", "frame")] != [pa.int32(), pa.int32()]:
            raise _damaged(file, "columns of other types")
        if table.column("episode").null_count or table.column("frame").null_count:
            raise _damaged(file, "rows without episode or frame")
        texts = table.column("text").cast(pa.dictionary(pa.int32(), pa.string()))
        return table.set_column(table.schema.get_field_index("text"), "text", texts)
    except DatasetDamagedError:
        raise
    except (OSError, LookupError, TypeError, ValueError, pa.ArrowException) as error:
        raise _damaged(file, printable(error, length=500)) from error


def _damaged(file: Path, found: str) -> DatasetDamagedError:
    return DatasetDamagedError(f"{file} is damaged: {found}. {REMEDY}")
