"""Text embedders: texts to vectors of length 1, the input of a policy that is conditioned on text.

- `hashed`: embedded and without parameters. Words, pairs of words and character n-grams are hashed to dimensions with a
  sign (feature hashing, Weinberger et al. 2009). Texts with common words are near each other; synonyms are not.
- a folder: a sentence-embedding model in the format of transformers, with weights as safetensors (extra `text`).

The paper used OpenAI's embedding service (appendix I, recalled). A text without letters or digits is the zero vector,
which a policy treats as no text.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from vpt_jax.system.contents import file_digest
from vpt_jax.system.errors import UserError

HASHED = "hashed"
HASHED_FEATURES = 256
_NGRAMS = (3, 4, 5)  # characters
_WORD = re.compile(r"\w+")
_MAX_TOKENS = 512  # of a model that states no limit; captions have at most 500 characters
_BATCH = 64  # texts embedded at a time by a model


class TextEmbedderError(UserError, ValueError):
    """A text embedder that cannot be used; the message names the remedy."""


class EmbedderIdentity(NamedTuple):
    """Identity of an embedder, stored with the policies that were trained with it."""

    name: str  # "hashed", or the folder
    digest: str  # of what determines its vectors
    features: int  # size of a vector


class TextEmbedder(NamedTuple):
    """Maps texts to vectors."""

    identity: EmbedderIdentity
    embed: Callable[[Sequence[str]], Float32[np.ndarray, "n e"]]


@lru_cache(maxsize=4)
def load_text_embedder(name: str, trained: EmbedderIdentity | None = None) -> TextEmbedder:
    """Loads the embedder of a name: "hashed", or the folder of a model.

    Args:
        name: of the embedder.
        trained: that of the policy which will read its vectors; None: any.

    Raises:
        TextEmbedderError: there is none of this name, or it is not the trained one.
    """
    embedder = _hashed() if name == HASHED else _sentence_model(Path(name).expanduser())
    if trained and embedder.identity[1:] != trained[1:]:
        raise TextEmbedderError(
            f"the text embedder {name} gives other vectors ({embedder.identity.digest}) than the one that the policy "
            f"was trained with, {trained.name} ({trained.digest}): give that one"
        )
    return embedder


def _hashed() -> TextEmbedder:
    def embed(texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        return np.stack([embed_by_hashing(text) for text in texts])

    return TextEmbedder(EmbedderIdentity(HASHED, "hashed-1", HASHED_FEATURES), embed)


def embed_by_hashing(text: str) -> Float32[np.ndarray, " e"]:
    """Vector of hashed words and character n-grams, which have equal shares; length 1, or 0 without a word."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    grams = [gram for word in words for gram in _ngrams(f"<{word}>")]
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    return _unit(_unit(_hash_counts([*words, *pairs])) + _unit(_hash_counts(grams))).astype(np.float32)


def _ngrams(word: str) -> Iterator[str]:
    return (word[i : i + n] for n in _NGRAMS for i in range(len(word) - n + 1))


def _hash_counts(items: Sequence[str]) -> np.ndarray:
    vector = np.zeros(HASHED_FEATURES)
    for item, count in Counter(items).items():
        number = int.from_bytes(hashlib.blake2b(item.encode(errors="replace"), digest_size=8).digest(), "little")
        vector[number % HASHED_FEATURES] += count if number >> 63 else -count
    return vector


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors scaled to length 1; those of length 0 as they are."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _sentence_model(folder: Path) -> TextEmbedder:
    """Model of a local folder: the mean of its last hidden states over the tokens, as of sentence-transformers."""
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise TextEmbedderError(
            f"there is no text embedder {folder}: give {HASHED!r}, or a folder with the config.json and the "
            "*.safetensors of a model of transformers; weights in other formats may hold code, and are not read"
        )
    try:
        import torch
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        raise TextEmbedderError(f"{error}. pip install -c constraints.txt -e '.[text]'") from error
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model = AutoModel.from_pretrained(folder, use_safetensors=True, **options).eval()
    except (OSError, ValueError, KeyError) as error:
        raise TextEmbedderError(f"{folder} cannot be read as a model of transformers: {error}") from error

    settings = {"padding": True, "truncation": True, "max_length": _longest(tokenizer, model), "return_tensors": "pt"}

    def embed(texts: Sequence[str]) -> Float32[np.ndarray, "n e"]:
        parts = []
        for start in range(0, len(texts), _BATCH):
            tokens = tokenizer(list(texts[start : start + _BATCH]), **settings)
            with torch.no_grad():
                states = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"][..., None]
            parts.append(((states * mask).sum(1) / mask.sum(1)).float().numpy())
        has_words = np.array([bool(_WORD.search(text)) for text in texts])[:, None]
        return (_unit(np.concatenate(parts)) * has_words).astype(np.float32)

    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".txt", ".model"))
    digest = hashlib.sha256("".join(f"{file.name} {file_digest(file)}\n" for file in files).encode()).hexdigest()[:16]
    return TextEmbedder(EmbedderIdentity(str(folder), digest, int(model.config.hidden_size)), embed)


def _longest(tokenizer: Any, model: Any) -> int:
    """Number of tokens for which the model has positions; a tokenizer may have no limit of its own."""
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    positions -= 2  # RoBERTa and its like count from 2; others lose two tokens
    return min(tokenizer.model_max_length, positions if positions > 0 else _MAX_TOKENS)
