"""The episodes of a dataset, whatever their split: their frames and what identifies them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vpt_jax.data.codecs import decode_frames
from vpt_jax.data.dataset import EpisodeIndex, load_index, open_records
from vpt_jax.data.errors import DatasetDamagedError


class InspectionError(Exception):
    """What was asked for cannot be inspected; the message says what to do."""


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
        """As it is called in its split."""
        return self.index.names[self.number]

    @property
    def frames(self) -> int:
        """How many it has."""
        return int(self.index.lengths[self.number])

    @property
    def rows(self) -> slice:
        """Its actions in the index."""
        return self.index.rows(self.number)

    def __str__(self) -> str:
        return f"{self.split}/{self.name}"


def splits_of(dataset: Path) -> list[str]:
    """The splits of a dataset, `train` first. Raises `DatasetMissingError`."""
    folder = dataset / "index"
    there = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    load_index(dataset, min(there, default="train"))  # says what is wrong, if it is no dataset
    return sorted(there, key=lambda split: (split != "train", split))


def find_episodes(dataset: Path) -> list[Episode]:
    """All episodes, split by split, in the order of their records. Raises `DatasetMissingError`."""
    dataset = dataset.resolve()
    sizes = {split: len(_open_index(dataset, split).names) for split in splits_of(dataset)}
    return [Episode(dataset, split, number) for split, size in sizes.items() for number in range(size)]


def read_records(episode: Episode) -> Iterator[dict[str, Any]]:
    """The records of an episode, of which the last may be missing where the dataset is damaged."""
    source = open_source(episode.dataset, episode.split)
    first, chunk = int(episode.index.first_record[episode.number]), episode.index.chunk_frames
    for number in range(first, min(first - -episode.frames // chunk, len(source))):
        yield source[number]


def read_frames(episode: Episode, start: int, stop: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Frames `start` to `stop` of an episode, which has them. Raises `DatasetDamagedError`."""
    source, chunk = open_source(episode.dataset, episode.split), episode.index.chunk_frames
    parts = []
    for number in range(start // chunk, -(-stop // chunk)):
        wanted = np.arange(max(start, number * chunk), min(stop, (number + 1) * chunk)) - number * chunk
        try:
            record = source[int(episode.index.first_record[episode.number]) + number]
            parts.append(decode_frames(record["frames"], record["frame_ends"], wanted))
        except (ValueError, IndexError) as error:
            raise DatasetDamagedError(f"{episode.dataset}, {episode}, record {number}: {error}") from error
    return np.concatenate(parts)


def digest_frames(episode: Episode) -> str:
    """The same for the same stored bytes of all frames."""
    digest = hashlib.sha256()
    for record in read_records(episode):
        digest.update(record["frames"])
    return digest.hexdigest()


def digest_actions(episode: Episode) -> str:
    """The same for the same keys and angles in all frames."""
    fields = (episode.index.buttons, episode.index.camera)
    return hashlib.sha256(b"".join(field[episode.rows].tobytes() for field in fields)).hexdigest()


# Opened once in each process, whose workers deal with many episodes.
_open_index = lru_cache(maxsize=8)(load_index)
open_source = lru_cache(maxsize=8)(open_records)
