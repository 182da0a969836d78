"""Tables of text embeddings: a vector for each distinct caption of a split, computed once, and read by data workers."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int

from vpt_jax.data.captions import Captions, load_captions
from vpt_jax.data.dataset import load_index
from vpt_jax.data.errors import DatasetDamagedError
from vpt_jax.data.text_embedders import EmbedderIdentity, TextEmbedder
from vpt_jax.system.atomic_files import atomic_write


@dataclass(frozen=True)
class TextTable:
    """Table of the embeddings of a split's captions; row 0 is that of no text, zeros."""

    file: str  # float32 [texts, e], as `Captions.texts`
    embedder: EmbedderIdentity
    texts: int  # rows; 1: the split has no captions


def write_text_table(dataset_dir: Path, split: str, embedder: TextEmbedder, folder: Path) -> TextTable:
    """Writes the table of a split into `folder`, unless it is there.

    Raises:
        DatasetMissingError, DatasetDamagedError: as `load_index`.
    """
    index = load_index(dataset_dir, split)
    texts = load_captions(dataset_dir / "index" / split, index.lengths).texts
    digest = hashlib.sha256("\n".join([embedder.identity.digest, *texts]).encode()).hexdigest()[:16]
    file = folder / f"{digest}.npy"  # the name tells whether it is of these texts
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        table = np.zeros((len(texts), embedder.identity.features), np.float32)
        if len(texts) > 1:
            table[1:] = embedder.embed(texts[1:])
        with atomic_write(file) as writing, writing.open("wb") as opened:
            np.save(opened, table)
    return TextTable(str(file), embedder.identity, len(texts))


def read_text(table: TextTable, captions: Captions, rows: Int[np.ndarray, " t"]) -> Float32[np.ndarray, "t e"]:
    """Embeddings of the text at some rows of a split's index; zeros where there is none."""
    return _open_table(table)[captions.at(rows)]


@lru_cache(maxsize=16)  # for the datasets of a mixture
def _open_table(table: TextTable) -> Float32[np.ndarray, "texts e"]:
    try:
        vectors = np.load(table.file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise DatasetDamagedError(f"{table.file} is damaged: remove it, and start again. {error}") from error
    if vectors.shape != (table.texts, table.embedder.features) or vectors.dtype != np.float32:
        raise DatasetDamagedError(f"{table.file} is damaged, or of other texts: remove it, and start again")
    return vectors
