"""Episodes of a dataset in all splits: their frames, records and digests."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vpt_jax.data.codecs import decode_frames, frame_shape
from vpt_jax.data.dataset import EpisodeIndex, load_index, load_index_unchecked, open_records, open_records_unchecked
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.system.errors import UserError


class InspectionError(UserError):
    """A dataset that cannot be inspected as configured; the message gives the remedy."""


@dataclass(frozen=True)
class Episode:
    """An episode's place in a dataset."""

    dataset: Path
    split: str
    number: int  # in its split

    @property
    def index(self) -> EpisodeIndex:
        """The index of its split."""
        return _open_index(self.dataset, self.split)

    @property
    def name(self) -> str:
        """Its name in its split."""
        return self.index.names[self.number]

    @property
    def frames(self) -> int:
        """Number of its frames."""
        return int(self.index.lengths[self.number])

    @property
    def rows(self) -> slice:
        """Slice of its actions in the index."""
        return self.index.rows(self.number)

    def __str__(self) -> str:
        return f"{self.split}/{self.name}"


def splits_of(dataset: Path) -> list[str]:
    """The splits of a dataset, `train` first. Raises `DatasetMissingError`."""
    folder = dataset / "index"
    splits = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    load_index_unchecked(dataset, min(splits, default="train"))  # raises if it is not a dataset
    return sorted(splits, key=lambda split: (split != "train", split))


def find_episodes(dataset: Path, checked: bool = True) -> list[Episode]:
    """Lists all episodes, split by split, in the order of their records.

    Args:
        checked: refuse a damaged dataset; False is for validation, which looks for damage.

    Raises:
        DatasetMissingError: it is not a dataset.
        DatasetDamagedError: it is damaged; if not `checked`, only where the damage makes it unreadable as a whole.
    """
    dataset = dataset.resolve()
    splits = splits_of(dataset)
    for split in splits:
        open_source(dataset, split)
        if checked:
            load_index(dataset, split)
            open_records(dataset, split)
    sizes = {split: len(_open_index(dataset, split).names) for split in splits}
    return [Episode(dataset, split, number) for split, size in sizes.items() for number in range(size)]


def read_records(episode: Episode) -> Iterator[dict[str, Any] | DatasetDamagedError]:
    """Reads the records of an episode; yields the error for one that is damaged.

    In a damaged dataset the last records may be missing.
    """
    source = open_source(episode.dataset, episode.split)
    first, chunk = int(episode.index.first_record[episode.number]), episode.index.chunk_frames
    for number in range(first, min(first - -episode.frames // chunk, len(source))):
        try:
            yield source[number]
        except DatasetDamagedError as error:
            yield error


def read_frames(episode: Episode, start: int, stop: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Reads frames `start` to `stop`, which must lie within the episode. Raises `DatasetDamagedError`."""
    source, chunk = open_source(episode.dataset, episode.split), episode.index.chunk_frames
    parts = []
    for number in range(start // chunk, -(-stop // chunk)):
        wanted = np.arange(max(start, number * chunk), min(stop, (number + 1) * chunk)) - number * chunk
        try:
            record = source[int(episode.index.first_record[episode.number]) + number]
            parts.append(decode_frames(record["frames"], record["frame_ends"], wanted, shape_of_frames(episode)))
        except (ValueError, IndexError) as error:
            raise DatasetDamagedError(f"{episode.dataset}, {episode}, record {number}: {error}") from error
    return np.concatenate(parts)


def shape_of_frames(episode: Episode) -> tuple[int, ...] | None:
    """Height, width and channels of the frames of an episode's split; None if no record can be read."""
    return _shape_of_frames(episode.dataset, episode.split)


@lru_cache(maxsize=8)
def _shape_of_frames(dataset: Path, split: str) -> tuple[int, ...] | None:
    """Shape from the first record that can be read."""
    source = open_source(dataset, split)
    for number in range(len(source)):
        with suppress(ValueError):
            record = source[number]
            return frame_shape(record["frames"], record["frame_ends"])
    return None


def digest_frames(episode: Episode, checked: bool = True) -> str:
    """SHA-256 over the stored bytes of all frames.

    Args:
        checked: raise `DatasetDamagedError` if a record cannot be read; False: such a record makes the digest unique.
    """
    digest = hashlib.sha256()
    for number, record in enumerate(read_records(episode)):
        if not isinstance(record, DatasetDamagedError):
            digest.update(record["frames"])
        elif checked:
            raise record
        else:
            digest.update(f"{episode}, {number}".encode())
    return digest.hexdigest()


def digest_actions(episode: Episode) -> str:
    """SHA-256 over the keys and camera angles of all frames."""
    fields = (episode.index.buttons, episode.index.camera)
    return hashlib.sha256(b"".join(field[episode.rows].tobytes() for field in fields)).hexdigest()


# Opened once per process, since a worker handles many episodes.
_open_index = lru_cache(maxsize=8)(load_index_unchecked)
open_source = lru_cache(maxsize=8)(open_records_unchecked)
