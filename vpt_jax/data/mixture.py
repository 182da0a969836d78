"""Mixtures: several datasets in one run, each with its share of every batch; read like a stream of one dataset.

`MixtureStream` is for contiguous streams. Each row of the batch belongs to one dataset for the whole run, so that the
KV cache is carried over within a dataset. The numbers of rows are in proportion to the weights, and rows of the
datasets alternate, so that all hosts read from all. Every dataset has its own epochs.

`WindowMixture` is for independent windows: the rows of every step are drawn by systematic sampling, so that the shares
are exact over the steps, and in each step to within one row.

An epoch of a mixture ends when the first dataset has been read once: in a run of `n` epochs, no dataset is read more
than `n` times. As for one dataset, the batch of a step is a pure function of (settings, step).
"""

from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np
from jaxtyping import Int

from vpt_jax.actions.space import ActionSpace, ActionSpaceError
from vpt_jax.data.batch import Batch
from vpt_jax.data.streams import Part, Stream
from vpt_jax.system.errors import ConfigError

Rows = tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]


def split_rows(weights: Sequence[float], batch: int) -> list[int]:
    """Rows of each dataset in a batch: in proportion to the weights, by largest remainders, and at least one each.

    A dataset whose proportion is less than a row gets one, and the others share the rest. Of equal remainders, the
    first counts.

    Raises:
        ValueError: there are fewer rows than datasets.
    """
    if batch < len(weights):
        raise ValueError(f"a batch of {batch} rows is too small for {len(weights)} datasets: each needs a row")
    rows, shared = [1] * len(weights), list(range(len(weights)))
    while shared:
        left, total = batch - (len(weights) - len(shared)), sum(weights[i] for i in shared)
        quotas = {i: round(weights[i] / total * left, 9) for i in shared}
        if (large := [i for i in shared if quotas[i] >= 1]) == shared:
            break
        shared = large
    for i in shared:
        rows[i] = int(quotas[i])
    for i in sorted(shared, key=lambda i: int(quotas[i]) - quotas[i])[: batch - sum(rows)]:
        rows[i] += 1
    return rows


class MixtureStream:
    """Contiguous streams of several datasets, in one batch. Each process opens its own files."""

    batch_type = Batch

    def __init__(self, parts: Sequence[Part], batch: int) -> None:
        """Mixes the streams of the parts.

        Args:
            parts: their streams have a `batch` of the rows that the dataset gets, by `split_rows`.
            batch: rows, over all datasets and hosts.

        Raises:
            ConfigError: the datasets have frames of different sizes, or other action spaces; the message names two.
        """
        self.parts, self.batch_size = tuple(parts), batch
        first, *others = self.parts
        for part in others:
            require_equal_data(first.name, first.stream, part.name, part.stream)

    def __reduce__(self) -> tuple[type, tuple[tuple[Part, ...], int]]:
        return type(self), (self.parts, self.batch_size)

    def with_streams(self, change: Callable[[Stream], Stream]) -> Self:
        """The same mixture with the stream of each part changed."""
        return type(self)([part._replace(stream=change(part.stream)) for part in self.parts], self.batch_size)

    def assignment(self, step: int) -> Rows:
        """Part of each row of a step's batch, and its row in the part's stream."""
        del step  # a row stays in its dataset
        return self._assignment

    @cached_property
    def _assignment(self) -> Rows:
        counts = [part.stream.settings.batch for part in self.parts]
        places = sorted(((row + 0.5) / count, i, row) for i, count in enumerate(counts) for row in range(count))
        return np.array([i for _, i, _ in places]), np.array([row for *_, row in places])

    @property
    def space(self) -> ActionSpace:
        """Action space of all actions."""
        return self.parts[0].stream.space

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Height, width and channels of the frames of all datasets."""
        return self.parts[0].stream.frame_shape

    @property
    def num_episodes(self) -> int:
        """Number of episodes of all datasets."""
        return sum(part.stream.num_episodes for part in self.parts)

    @property
    def num_frames(self) -> int:
        """Number of frames of all datasets."""
        return sum(part.stream.num_frames for part in self.parts)

    @property
    def pass_lengths(self) -> list[float]:
        """Number of steps in which each dataset is read once."""
        return [part.stream.steps_per_epoch for part in self.parts]

    @cached_property
    def steps_per_epoch(self) -> int:
        """Number of steps until the first dataset has been read once."""
        return int(np.ceil(min(self.pass_lengths)))

    @property
    def loss_shares(self) -> list[float]:
        """Share of each dataset in the frames that count in the loss, on average over the steps."""
        frames = [part.stream.num_scored / steps for part, steps in zip(self.parts, self.pass_lengths, strict=True)]
        return [count / sum(frames) for count in frames]

    def episodes(self, step: int) -> list[str]:
        """Names of the episodes in a step's batch, over all rows, each as DATASET/EPISODE."""
        chosen, rows = self.assignment(step)
        names = set()
        for i, part in enumerate(self.parts):
            for row in rows[chosen == i]:
                names |= {f"{part.name}/{episode}" for episode in part.stream.episodes_of_row(step, int(row))}
        return sorted(names)

    def read(self, step: int, rows: Sequence[int]) -> Batch:
        """Reads the frames and actions of some rows at a step."""
        chosen, own_rows = (field[list(rows)] for field in self.assignment(step))
        merged: dict[str, np.ndarray] = {}
        for i in np.unique(chosen):
            batch = self.parts[i].stream.read(step, own_rows[chosen == i].tolist())
            fields = {name: field for name, field in batch._asdict().items() if field is not None}
            merged = merged or {
                name: np.empty((len(chosen), *field.shape[1:]), field.dtype) for name, field in fields.items()
            }
            for name, field in fields.items():
                merged[name][chosen == i] = field
        return Batch(**merged)

    def bytes_read(self, rows: int) -> int:
        """Size in bytes of what `read` returns for a number of rows."""
        return self.parts[0].stream.bytes_read(rows)

    def fingerprint(self) -> dict[str, Any]:
        """Properties that must be equal when training resumes, of each dataset in order.

        The shape of frames, the length and the text embedder, by which a model is loaded, are those of all.
        """
        parts = [self._part_fingerprint(part) for part in self.parts]
        of_all = {name: parts[0][name] for name in ("frame_shape", "length", "text") if name in parts[0]}
        return of_all | {f"dataset{i}.{name}": value for i, part in enumerate(parts, 1) for name, value in part.items()}

    def _part_fingerprint(self, part: Part) -> dict[str, Any]:
        return part.stream.fingerprint()


class WindowMixture(MixtureStream):
    """Independent windows of several datasets; the parts are shuffled `WindowStream`s with the `batch` of the whole."""

    def assignment(self, step: int) -> Rows:
        """Part of each row of a step's batch, and its row in the part's stream."""
        return _sampled_rows(self, step), np.arange(self.batch_size)

    @property
    def pass_lengths(self) -> list[float]:
        """Number of steps that yield as many frames of each dataset as it has."""
        room = self.batch_size * self.parts[0].stream.settings.length
        return [part.stream.num_frames / (part.share * room) for part in self.parts]

    def _part_fingerprint(self, part: Part) -> dict[str, Any]:
        return part.stream.fingerprint() | {"share": round(part.share, 9)}


@lru_cache(maxsize=4)
def _sampled_rows(mixture: WindowMixture, step: int) -> Int[np.ndarray, " b"]:
    """Part of each row, by systematic sampling: points at equal distances, displaced at random and in random order."""
    rng = np.random.default_rng((mixture.parts[0].stream.settings.seed, step))
    points = (rng.permutation(mixture.batch_size) + rng.random()) / mixture.batch_size
    ends = np.cumsum([part.share for part in mixture.parts])
    return np.minimum(np.searchsorted(ends, points, side="right"), len(ends) - 1)


def require_equal_data(name: str, stream: "Stream | MixtureStream", other_name: str, other: Stream) -> None:
    """Checks that two datasets serve the same model.

    Raises:
        ConfigError: their frames differ in size, or their action spaces; the message names both and the difference.
    """
    try:
        stream.space.require_equal(other.space, name, other_name)
    except ActionSpaceError as error:
        raise ConfigError(f"config.data: {error}") from error
    if (shape := stream.frame_shape) != (other_shape := other.frame_shape):
        sizes = [f"{width}x{height}" for height, width, *_ in (shape, other_shape)]
        raise ConfigError(
            f"config.data: the frames of {name} are {sizes[0]}, and those of {other_name} are {sizes[1]}: prepare them "
            "with the same --config.width and --config.height"
        )
