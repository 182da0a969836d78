"""Precomputed (cached) embeddings of a frozen image encoder, and a stream that yields them in place of frames.

    FOLDER/train.npy, valid.npy     an embedding of every frame of the split, float32
    FOLDER/train.json, valid.json   settings and digests of their sources, and the number of frames embedded so far

Without the encoder in the train step, the rest of a large policy can be trained on a small machine.
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
from vpt_jax.system.errors import UserError
from vpt_jax.system.resumable_folder import refuse_changes
from vpt_jax.system.workers import locked, progress_bar


class Encoder(NamedTuple):
    """Frozen image encoder: maps frames to embeddings."""

    embed: Callable[[UInt8[np.ndarray, "n h w 3"]], Float[np.ndarray, "n f"]]
    digest: str  # hash of its parameters
    features: int  # size of an embedding


_BATCH = 64  # frames embedded at a time
_SAVE_EVERY = 16  # batches


class EmbeddingsMismatchError(UserError, ValueError):
    """Stored embeddings are of other frames or by another encoder; the message names the remedy."""


class EmbeddedStream(Stream):
    """A `Stream` whose batches hold embeddings `[b, t, f]` in place of frames."""

    def __init__(self, settings: StreamSettings, folder: Path, encoder: str) -> None:
        """Opens the embeddings in `folder`, from `write_embeddings`; `encoder`: its digest, for the fingerprint."""
        super().__init__(settings)
        self._folder, self._encoder = folder, encoder
        file, frames = folder / f"{settings.split}.npy", len(self.index.buttons)
        rows = _open_memmap(file)
        if rows is None or len(rows) != frames:
            raise DatasetDamagedError(f"{file} is damaged, or not of the {frames} frames of the split: remove {folder}")
        self._embeddings: Float32[np.ndarray, "frames f"] = rows

    def __reduce__(self) -> tuple[type, tuple[Any, ...]]:
        return type(self), (self.settings, self._folder, self._encoder)

    def _read_frames(self, window: Window) -> Any:
        rows = self._embeddings[self.index.starts[window.episode] + window.frame]
        return np.where(window.real[:, None], rows, 0)

    @property
    def _bytes_per_frame(self) -> int:
        return 4 * self._embeddings.shape[1]

    def fingerprint(self) -> dict[str, Any]:
        """Fingerprint of the frames, with the digest of the encoder."""
        return super().fingerprint() | {"embeddings": self._encoder}


def write_embeddings(settings: StreamSettings, encoder: Encoder, folder: Path) -> None:
    """Embeds all frames of a split, unless this is done already. An interrupted call resumes where it stopped.

    Args:
        settings: of the stream; only dataset and split matter.
        encoder: must stay frozen for as long as the embeddings are used.
        folder: output folder.

    Raises:
        EmbeddingsMismatchError: the folder holds other embeddings.
    """
    all_frames = replace(settings, nulls="keep", segments="", minutes=0.0, shuffle=False, seed=0)
    all_frames = replace(all_frames, mapping=None, space=None, min_confidence=0.0, text=None)
    stream = Stream(replace(all_frames, batch=1, length=_BATCH))
    records = hashlib.sha256()
    for file in sorted(Path(settings.dataset).glob(f"*{settings.split}.array_record*")):
        records.update(file_digest(file).encode())
    provenance = stream.fingerprint() | {
        "encoder": encoder.digest, "features": encoder.features, "records": records.hexdigest()[:16],
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, wait=True):  # for another run that fills it
        _embed_missing(stream, encoder, folder / f"{settings.split}.npy", provenance)


def _embed_missing(stream: Stream, encoder: Encoder, file: Path, provenance: dict[str, Any]) -> None:
    progress_file = file.with_suffix(".json")
    shape = stream.num_frames, encoder.features
    done = _count_embedded(file, progress_file, provenance, shape)
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
                with file.open("rb") as written:  # `flush` of a memory map does not sync the file's length
                    os.fsync(written.fileno())
                write_text(progress_file, json.dumps(provenance | {"done": step * _BATCH + count}, indent=1) + "\n")


def _count_embedded(file: Path, progress_file: Path, provenance: dict[str, Any], shape: tuple[int, int]) -> int:
    """Number of frames embedded so far; raises `EmbeddingsMismatchError` if the file has another provenance."""
    stored, rows = read_json(progress_file), _open_memmap(file)
    done = stored.pop("done", None) if isinstance(stored, dict) else None
    if rows is None or type(done) is not int:
        return 0  # missing or damaged
    refuse_changes(file, stored, provenance, EmbeddingsMismatchError, "config.data.embeddings")
    return done if rows.shape == shape and 0 <= done <= len(rows) else 0


def _open_memmap(file: Path) -> Float32[np.ndarray, "frames f"] | None:
    """Memory-maps the embeddings in a file; None if it is missing or damaged."""
    try:
        rows = np.lib.format.open_memmap(file, mode="r") if file.is_file() else None
    except (ValueError, EOFError, OverflowError):
        return None
    return rows if rows is not None and rows.ndim == 2 and rows.dtype == np.float32 else None
