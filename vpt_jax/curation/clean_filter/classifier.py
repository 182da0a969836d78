"""The support vector machine that tells clean frames from others (paper, appendix A.2): RBF kernel, C = 20.

scikit-learn trains it. What comes out is a handful of arrays, and deciding is a few lines of NumPy that agree with
scikit-learn's, so a trained filter needs no scikit-learn, and its file (`.npz`) holds nothing that could run.
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

from vpt_jax.curation.clean_filter.novelty import CellMap, Memory, distances, summary
from vpt_jax.system.atomic_files import atomic_write

CLASSES = ("clean", "artifacts", "other")  # play without and with something laid over it; anything else
_BLOCK = 1024  # frames decided at a time


class ClassifierError(ValueError):
    """A classifier that cannot be trained or read; the message says what to do."""


class Machine(NamedTuple):
    """A trained support vector machine. `d`: numbers of a picture; `s`: support vectors."""

    mean: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]  # standard deviations
    vectors: Float[np.ndarray, "s d"]  # sorted by class
    counts: Int[np.ndarray, " 3"]  # support vectors of each class
    coefficients: Float[np.ndarray, "2 s"]  # scikit-learn's `dual_coef_`
    intercepts: Float[np.ndarray, " 3"]  # of clean-artifacts, clean-other, artifacts-other
    gamma: Float[np.ndarray, ""]

    def decide(self, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 3"]:
        """scikit-learn's `SVC.decision_function`: the higher, the likelier the class."""
        blocks = [x[at : at + _BLOCK] for at in range(0, len(x), _BLOCK)]
        return np.concatenate([_decide(self, (block - self.mean) / self.scale) for block in blocks])


@dataclass(frozen=True)
class Classifier:
    """What is kept of a training run."""

    memories: tuple[Memory | None, ...]  # for every map of the embedder; None: it is of one cell, and taken as it is
    machine: Machine
    threshold: float  # of the margin, from which on a frame is clean
    made_of: dict[str, Any]  # the embedder, and what the machine was trained on

    def decide(self, maps: Sequence[CellMap]) -> Float[np.ndarray, "n 3"]:
        """The higher, the likelier the class."""
        return self.machine.decide(describe(maps, self.memories))

    def digest(self) -> str:
        """Changes with whatever could change a decision, but not with the threshold."""
        return hashlib.sha256(b"".join(array.tobytes() for array in self._arrays().values())).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Writes a `.npz` file that exists under its name only once it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"threshold": self.threshold, "made_of": self.made_of, "maps": len(self.memories)}
        with atomic_write(path) as writing, writing.open("wb") as file:
            np.savez(file, **{"facts": np.array(json.dumps(facts))} | self._arrays())

    def _arrays(self) -> dict[str, Any]:
        arrays = {f"machine/{name}": array for name, array in self.machine._asdict().items()}
        for number, memory in enumerate(self.memories):
            if memory is not None:
                arrays |= {f"memory_{number}/{name}": array for name, array in memory._asdict().items()}
        return arrays


def load_classifier(path: Path) -> Classifier:
    """Raises ClassifierError if there is none, or the file is something else."""
    try:
        with np.load(path) as stored:
            arrays = dict(stored)
        facts = json.loads(str(arrays["facts"]))
        parts = [_part(arrays, Memory, f"memory_{number}") for number in range(facts["maps"])]
        machine = Machine(*(arrays[f"machine/{name}"] for name in Machine._fields))
        return Classifier(tuple(parts), machine, facts["threshold"], facts["made_of"])
    except FileNotFoundError:
        raise ClassifierError(
            f"there is no classifier at {path}: train one with --config.labelled=FOLDER (docs/filtering.md)"
        ) from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ClassifierError(f"{path} is no classifier of launch/filter.py: {error}") from error


def _part(arrays: Mapping[str, np.ndarray], kind: type[Memory], name: str) -> Memory | None:
    if f"{name}/mean" not in arrays:
        return None
    return kind(*(arrays[f"{name}/{field}"] for field in kind._fields))


def describe(
    maps: Sequence[CellMap], memories: Sequence[Memory | None], ignore: Bool[np.ndarray, "n m"] | None = None
) -> Float[np.ndarray, "n d"]:  # fmt: skip
    """The numbers of a picture that the machine looks at: how new its cells are, or a map of one cell as it is."""
    parts = [
        cells.reshape(len(cells), -1) if memory is None else summary(distances(cells, memory, ignore))
        for cells, memory in zip(maps, memories, strict=True)
    ]
    return np.concatenate(parts, 1).astype(np.float64)


def margins(decisions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """How much likelier a frame is clean than anything else; above 0, clean is the likeliest."""
    return decisions[:, 0] - decisions[:, 1:].max(-1)


def _decide(machine: Machine, x: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n 3"]:
    kernel = np.exp(-machine.gamma * _squared_distances(x, machine.vectors))
    ends = np.cumsum([0, *machine.counts])
    of_class = [slice(start, stop) for start, stop in pairwise(ends)]
    votes, confidences = np.zeros((len(x), 3)), np.zeros((len(x), 3))
    for pair, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        for_i = kernel[:, of_class[i]] @ machine.coefficients[j - 1, of_class[i]]
        for_i += kernel[:, of_class[j]] @ machine.coefficients[i, of_class[j]] + machine.intercepts[pair]
        votes[:, i] += for_i >= 0
        votes[:, j] += for_i < 0
        confidences[:, i] += for_i
        confidences[:, j] -= for_i
    return votes + confidences / (3 * (np.abs(confidences) + 1))  # less than half a vote: it settles ties


def _squared_distances(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "s d"]) -> Float[np.ndarray, "n s"]:
    return np.maximum((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T, 0)
