"""The support vector machine that tells clean frames from others (paper, appendix A.2): RBF kernel, C = 20.

scikit-learn trains it. What comes out is a handful of arrays, and deciding is a few lines of NumPy that agree with
scikit-learn's, so a trained filter needs no scikit-learn, and its file (`.npz`) holds nothing that could run.
"""

import hashlib
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vpt_jax.workers import unique_name

CLASSES = ("clean", "artifacts", "other")  # play without and with something laid over it; anything else
_BLOCK = 1024  # frames decided at a time


class ClassifierError(ValueError):
    """A classifier that cannot be trained or read; the message says what to do."""


@dataclass(frozen=True)
class Classifier:
    """A trained machine. `d`: numbers of an embedding, `k` of what is left of it; `s`: support vectors."""

    mean: Float[np.ndarray, " d"]  # of the embeddings
    projection: Float[np.ndarray, "d k"]  # of what differs from it
    vectors: Float[np.ndarray, "s k"]  # sorted by class
    counts: Int[np.ndarray, " 3"]  # support vectors of each class
    coefficients: Float[np.ndarray, "2 s"]  # scikit-learn's `dual_coef_`
    intercepts: Float[np.ndarray, " 3"]  # of clean-artifacts, clean-other, artifacts-other
    gamma: Float[np.ndarray, ""]
    threshold: Float[np.ndarray, ""]  # of the margin, from which on a frame is clean
    made_of: Any  # JSON: the embedder, and what the machine was trained on

    def decide(self, embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 3"]:
        """scikit-learn's `SVC.decision_function`: the higher, the likelier the class."""
        blocks = [embeddings[at : at + _BLOCK] for at in range(0, len(embeddings), _BLOCK)]
        return np.concatenate([_decide(self, self.reduce(block)) for block in blocks] or [np.zeros((0, 3))])

    def reduce(self, embeddings: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n k"]:
        """What the machine looks at."""
        return (embeddings - self.mean) @ self.projection

    def digest(self) -> str:
        """Changes with whatever could change a decision, but not with the threshold."""
        arrays = self.mean, self.projection, self.vectors, self.counts, self.coefficients, self.intercepts, self.gamma
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Writes a `.npz` file that exists under its name only once it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        writing = unique_name(path)
        with writing.open("wb") as file:
            np.savez(file, **{**asdict(self), "made_of": np.array(json.dumps(self.made_of))})
        writing.rename(path)


def load_classifier(path: Path) -> Classifier:
    """Raises ClassifierError if there is none, or the file is something else."""
    try:
        with np.load(path) as stored:
            fields = dict(stored)
        return Classifier(**{**fields, "made_of": json.loads(str(fields["made_of"]))})
    except FileNotFoundError:
        raise ClassifierError(
            f"there is no classifier at {path}: train one with --config.labelled=FOLDER (docs/filtering.md)"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ClassifierError(f"{path} is no classifier of launch/filter.py: {error}") from error


def margins(decisions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """How much likelier a frame is clean than anything else; above 0, clean is the likeliest."""
    return decisions[:, 0] - decisions[:, 1:].max(-1)


def _decide(machine: Classifier, x: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n 3"]:
    kernel = np.exp(-machine.gamma * _squared_distances(x.astype(np.float64), machine.vectors.astype(np.float64)))
    ends = np.cumsum([0, *machine.counts])
    of_class = [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]
    votes, confidences = np.zeros((len(x), 3)), np.zeros((len(x), 3))
    for pair, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        for_i = kernel[:, of_class[i]] @ machine.coefficients[j - 1, of_class[i]]
        for_i += kernel[:, of_class[j]] @ machine.coefficients[i, of_class[j]] + machine.intercepts[pair]
        votes[:, i] += for_i >= 0
        votes[:, j] += for_i < 0
        confidences[:, i] += for_i
        confidences[:, j] -= for_i
    return votes + confidences / (3 * (np.abs(confidences) + 1))  # less than half a vote: it settles ties


def _squared_distances(a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "s k"]) -> Float[np.ndarray, "n s"]:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
