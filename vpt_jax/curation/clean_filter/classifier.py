"""Support vector machine (SVM) that separates clean frames from others (paper, appendix A.2): RBF kernel, C = 20.

scikit-learn trains it. The result is a handful of arrays, and inference is a few lines of NumPy that agree with
scikit-learn's `SVC`, so a trained filter needs no scikit-learn, and its file (`.npz`) holds no executable code.
"""

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vpt_jax.curation.clean_filter.novelty import CellMap, PatchMemory, distance_features, patch_distances
from vpt_jax.system.atomic_files import atomic_write
from vpt_jax.system.errors import UserError

CLASSES = ("clean", "artifacts", "other")  # play without and with overlays; anything else
_BLOCK = 1024  # frames classified at a time


class ClassifierError(UserError, ValueError):
    """A classifier that cannot be trained or read; the message gives the remedy."""


class SVMClassifier(NamedTuple):
    """A trained one-vs-one SVM with an RBF kernel. `d`: features of a picture; `s`: support vectors.

    Field names are array names in the classifier's file.
    """

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]  # standard deviations
    vectors: Float[np.ndarray, "s d"]  # sorted by class
    counts: Int[np.ndarray, " 3"]  # support vectors of each class
    coefficients: Float[np.ndarray, "2 s"]  # scikit-learn's `dual_coef_`
    intercepts: Float[np.ndarray, " 3"]  # of clean-artifacts, clean-other, artifacts-other
    gamma: Float[np.ndarray, ""]

    def decision_function(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 3"]:
        """Class scores as of scikit-learn's `SVC.decision_function`: the higher, the likelier the class."""
        blocks = [x[start : start + _BLOCK] for start in range(0, len(x), _BLOCK)]
        return np.concatenate([_decision_function(self, (block - self.mean) / self.scale) for block in blocks])


@dataclass(frozen=True)
class FrameClassifier:
    """The result of a training run: patch memories, the SVM on their distances, and the threshold for clean."""

    patch_memories: tuple[PatchMemory | None, ...]  # one per map of the embedder; None: a map of one cell, used as is
    svm: SVMClassifier
    threshold: float  # margin from which on a frame is clean
    made_of: dict[str, Any]  # the embedder, and digests of its weights and of the training frames

    def decision_function(self, maps: Sequence[CellMap]) -> Float[np.ndarray, "n 3"]:
        """Class scores of the pictures with these embeddings: the higher, the likelier the class."""
        return self.svm.decision_function(svm_features(maps, self.patch_memories))

    def digest(self) -> str:
        """SHA-256 prefix over all arrays: depends on everything that determines scores, not on the threshold."""
        return hashlib.sha256(b"".join(array.tobytes() for array in self._arrays().values())).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Writes a `.npz` file by atomic rename."""
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"threshold": self.threshold, "made_of": self.made_of, "maps": len(self.patch_memories)}
        with atomic_write(path) as writing, writing.open("wb") as file:
            np.savez(file, **{"facts": np.array(json.dumps(facts))} | self._arrays())

    def _arrays(self) -> dict[str, Any]:
        arrays = {f"machine/{name}": array for name, array in self.svm._asdict().items()}
        for number, memory in enumerate(self.patch_memories):
            if memory is not None:
                arrays |= {f"memory_{number}/{name}": array for name, array in memory._asdict().items()}
        return arrays


def load_classifier(path: Path) -> FrameClassifier:
    """Loads the file that `FrameClassifier.save` wrote. Raises ClassifierError if it is missing or something else."""
    try:
        with np.load(path) as stored:
            arrays = dict(stored)
        facts = json.loads(str(arrays["facts"]))
        memories = [_load_memory(arrays, f"memory_{number}") for number in range(facts["maps"])]
        svm = SVMClassifier(*(arrays[f"machine/{name}"] for name in SVMClassifier._fields))
        return FrameClassifier(tuple(memories), svm, facts["threshold"], facts["made_of"])
    except FileNotFoundError:
        raise ClassifierError(
            f"there is no classifier at {path}: train one with --config.labelled=FOLDER (docs/filtering.md)"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ClassifierError(f"{path} is not a classifier written by launch/filter.py: {error}") from error


def _load_memory(arrays: Mapping[str, np.ndarray], name: str) -> PatchMemory | None:
    if f"{name}/mean" not in arrays:
        return None
    return PatchMemory(*(arrays[f"{name}/{field}"] for field in PatchMemory._fields))


def svm_features(
    maps: Sequence[CellMap], memories: Sequence[PatchMemory | None], ignore: Bool[np.ndarray, "n m"] | None = None
) -> Float[np.ndarray, "n d"]:  # fmt: skip
    """SVM input features: distances of each map's cells to its patch memory, or a map of one cell as it is.

    Args:
        maps: embeddings of `n` pictures, one array per map of the embedder.
        memories: one per map; None for a map of one cell.
        ignore: pictures of the memory, `m`, that each picture is not compared with.
    """
    parts = [
        cells.reshape(len(cells), -1) if memory is None else distance_features(patch_distances(cells, memory, ignore))
        for cells, memory in zip(maps, memories, strict=True)
    ]
    return np.concatenate(parts, 1).astype(np.float64)


def margins(decisions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Score of clean minus the highest score of the other classes; above 0, clean is the likeliest class."""
    return decisions[:, 0] - decisions[:, 1:].max(-1)


def _decision_function(svm: SVMClassifier, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 3"]:
    kernel = np.exp(-svm.gamma * _squared_distances(x, svm.vectors))
    ends = np.cumsum([0, *svm.counts])
    of_class = [slice(start, stop) for start, stop in pairwise(ends)]
    votes, confidences = np.zeros((len(x), 3)), np.zeros((len(x), 3))
    for pair, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        score = kernel[:, of_class[i]] @ svm.coefficients[j - 1, of_class[i]]
        score += kernel[:, of_class[j]] @ svm.coefficients[i, of_class[j]] + svm.intercepts[pair]
        votes[:, i] += score >= 0
        votes[:, j] += score < 0
        confidences[:, i] += score
        confidences[:, j] -= score
    return votes + confidences / (3 * (np.abs(confidences) + 1))  # less than half a vote: it settles ties


def _squared_distances(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "s d"]) -> Float[np.ndarray, "n s"]:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
