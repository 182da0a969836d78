"""Frames that are looked at once: a stream that shows what a frozen image encoder has made of them.

    FOLDER/train.npy, valid.npy     an embedding for every frame of the split, float32
    FOLDER/train.json, valid.json   what they were made of, and how many are there yet

With the encoder out of the step, the rest of a large policy can be trained on a small machine.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.streams import Stream, StreamSettings, Window
from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.system.contents import file_digest
from vpt_jax.system.workers import locked, progress_bar


class Encoder(NamedTuple):
    """What makes an embedding of a frame."""

    embed: Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n f"]]
    digest: str  # of its parameters
    features: int  # of an embedding


_BATCH = 64  # frames embedded at a time
_SAVE_EVERY = 16  # batches


class OtherEmbeddingsError(ValueError):
    """A folder holds embeddings of other frames, or by another encoder; the message says what to do."""


class EmbeddedStream(Stream):
    """A `Stream` whose batches hold embeddings `[b, t, f]` in place of frames."""

    def __init__(self, settings: StreamSettings, folder: Path, encoder: str) -> None:
        """`folder`: from `write_embeddings`; `encoder`: says whose they are."""
        super().__init__(settings)
        self._folder, self._encoder = folder, encoder
        file, frames = folder / f"{settings.split}.npy", len(self.index.buttons)
        rows = _map(file)
        if rows is None or len(rows) != frames:
            raise DatasetDamagedError(f"{file} is damaged, or not of the {frames} frames of the split: remove {folder}")
        self._embeddings: Float32[np.ndarray, "frames f"] = rows

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.settings, self._folder, self._encoder)

    def _read_frames(self, window: Window) -> Any:
        rows = self._embeddings[self.index.starts[window.episode] + window.frame]
        return np.where(window.real[:, None], rows, 0)

    @property
    def _bytes_of_frame(self) -> int:
        return 4 * self._embeddings.shape[1]

    def fingerprint(self) -> dict[str, Any]:
        """As of the frames, and whose embeddings they are."""
        return super().fingerprint() | {"embeddings": self._encoder}


def write_embeddings(settings: StreamSettings, encoder: Encoder, folder: Path) -> None:
    """Embeds all frames of a split, unless that has been done. Killed, it goes on where it was.

    Args:
        settings: of the stream; dataset and split count.
        encoder: as it is, for as long as the results are used.
        folder: of the results.

    Raises:
        OtherEmbeddingsError: there are other embeddings in the folder.
    """
    all_frames = replace(settings, nulls="keep", segments="", minutes=0.0, shuffle=False, seed=0)
    stream = Stream(replace(all_frames, batch=1, length=_BATCH))
    records = hashlib.sha256()
    for file in sorted(Path(settings.dataset).glob(f"*{settings.split}.array_record*")):
        records.update(file_digest(file).encode())
    made_of = stream.fingerprint() | {
        "encoder": encoder.digest, "features": encoder.features, "records": records.hexdigest()[:16],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=True):  # while another run fills it
        _fill(stream, encoder, folder / f"{settings.split}.npy", made_of)


def _fill(stream: Stream, encoder: Encoder, file: Path, made_of: dict[str, Any]) -> None:
    facts = file.with_suffix(".json")
    shape = stream.num_frames, encoder.features
    done = _count_done(file, facts, made_of, shape)
    if done == stream.num_frames:
        return
    rows = np.lib.format.open_memmap(file, "r+" if done else "w+", np.float32, None if done else shape)
    with progress_bar(stream.num_frames, desc=f"embedding {file.stem}", unit=" frames", initial=done) as bar:
        for step in range(done // _BATCH, stream.steps_per_epoch):
            batch = stream.read(step, [0])
            count = int(batch.valid.sum())
            rows[step * _BATCH :][:count] = encoder.embed(batch.frames[0])[:count]
            bar.update(count)
            if step % _SAVE_EVERY == 0 or step == stream.steps_per_epoch - 1:
                rows.flush()
                with file.open("rb") as written:  # of the mapping, `flush` does not tell the file's length to the disk
                    os.fsync(written.fileno())
                write_text(facts, json.dumps(made_of | {"done": step * _BATCH + count}, indent=1) + "\n")


def _count_done(file: Path, facts: Path, made_of: dict[str, Any], shape: tuple[int, int]) -> int:
    there, rows = read_json(facts), _map(file)
    done = there.pop("done", None) if isinstance(there, dict) else None
    if rows is None or type(done) is not int:
        return 0  # nothing is there yet, or it is damaged
    if changed := [name for name in made_of if there.get(name) != made_of[name]]:
        raise OtherEmbeddingsError(
            f"{file} was made with other {', '.join(changed)}: remove it, or choose another folder for embeddings"
        )
    return done if rows.shape == shape and 0 <= done <= len(rows) else 0


def _map(file: Path) -> Float32[np.ndarray, "frames f"] | None:
    """The embeddings in a file; None if it is not there, or damaged."""
    try:
        rows = np.lib.format.open_memmap(file, mode="r") if file.is_file() else None
    except (ValueError, EOFError, OverflowError):
        return None
    return rows if rows is not None and rows.ndim == 2 and rows.dtype == np.float32 else None
