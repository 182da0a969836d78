"""Training of the clean filter: labelled frames in, a classifier and its report out.

What the report says was found on frames of groups (videos) that the machine had not seen: in every one of some folds,
others are held out. The machine that is kept then learns from all.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from vpt_jax.data.filtering import labelled_set
from vpt_jax.data.filtering.classifier import CLASSES, Classifier, ClassifierError, margins
from vpt_jax.data.filtering.embedders import Embedder
from vpt_jax.data.filtering.labelled_set import LabelledFrame
from vpt_jax.video import resize
from vpt_jax.workers import progress_bar

BATCH = 64  # frames embedded at a time


class HeldOut(NamedTuple):
    """What a machine said of frames it had not seen. `n` frames."""

    labels: Int[np.ndarray, " n"]
    decisions: Float[np.ndarray, "n 3"]
    threshold: float  # of the margin, chosen on these very frames

    def predictions(self) -> Int[np.ndarray, " n"]:
        """Clean where the margin reaches the threshold, else the likelier of the others."""
        return classify(self.decisions, self.threshold)


def classify(decisions: Float[np.ndarray, "n 3"], threshold: float) -> Int[np.ndarray, " n"]:
    """Number of the class of every frame: clean is what reaches the threshold."""
    return np.where(margins(decisions) >= threshold, 0, 1 + decisions[:, 1:].argmax(-1))


def embed_pictures(frames: Sequence[LabelledFrame], embedder: Embedder) -> Float[np.ndarray, "n d"]:
    """Embeddings of labelled frames."""
    rows = []
    with progress_bar(len(frames), desc="embedding", unit=" frames") as bar:
        for at in range(0, len(frames), BATCH):
            pictures = [resize(labelled_set.read_picture(frame.path), *embedder.size) for frame in frames[at:][:BATCH]]
            rows.append(embed_batch(np.stack(pictures), embedder))
            bar.update(len(pictures))
    return np.concatenate(rows)


def embed_batch(frames: np.ndarray, embedder: Embedder) -> Float[np.ndarray, "n d"]:
    """Embeddings of up to `BATCH` frames; the embedder always gets as many, so it is compiled once."""
    filled = np.zeros((BATCH, *frames.shape[1:]), np.uint8)
    filled[: len(frames)] = frames
    return embedder.embed(filled)[: len(frames)].astype(np.float32)


def check(config: ConfigDict) -> None:
    """Raises ClassifierError where a field of the config makes no sense."""
    if config.folds < 2:
        raise ClassifierError(f"config.folds is {config.folds}, and must be 2 or more")
    if config.C <= 0 or config.shrinkage < 0:
        raise ClassifierError("config.C must be above 0, and config.shrinkage not below 0")
    if not 0 < config.precision <= 1:
        raise ClassifierError(f"config.precision is {config.precision}, and must be above 0 and at most 1")


def fit(
    x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], settings: ConfigDict, threshold: float = 0.0,
    made_of: Any = None,
) -> Classifier:  # fmt: skip
    """A machine that has learnt from these embeddings.

    Raises ClassifierError if scikit-learn is missing.
    """
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ClassifierError(
            'training a filter needs scikit-learn: pip install -c constraints.txt -e ".[filter]"'
        ) from error
    mean, projection = whiten(x, settings.shrinkage)
    svc = SVC(C=settings.C, gamma="scale").fit((x - mean) @ projection, labels)
    return Classifier(
        mean=mean, projection=projection, vectors=svc.support_vectors_.astype(np.float32), counts=svc.n_support_,
        coefficients=svc.dual_coef_, intercepts=svc.intercept_, gamma=np.array(svc._gamma), threshold=np.array(threshold),
        made_of=made_of,
    )  # fmt: skip


def whiten(x: Float[np.ndarray, "n d"], shrinkage: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and a projection after which all directions that pictures differ in count nearly alike.

    Scenes differ much more than what is laid over them, so without it the machine would see scenes alone. `shrinkage`:
    directions whose variance (every number of the embedding scaled to 1) is well below it are left as they are.
    """
    mean, spread = x.mean(0), x.std(0) + 1e-6
    scaled = (x - mean) / spread
    variances, directions = np.linalg.eigh(scaled @ scaled.T / len(x))
    there = variances > 1e-6 * variances.max()
    variances, directions = variances[there], directions[:, there]
    axes = scaled.T @ directions / np.sqrt(variances * len(x))
    return mean, (axes / np.sqrt(variances + shrinkage) / spread[:, None]).astype(np.float32)


def hold_out(
    x: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], groups: Sequence[str], settings: ConfigDict
) -> HeldOut:
    """What machines say of the groups that each has not seen. Raises ClassifierError if there are too few groups."""
    fold_of = _folds(labels, groups, settings.folds)
    folds = np.array([fold_of[group] for group in groups])
    decisions = np.zeros((len(x), len(CLASSES)))
    with progress_bar(settings.folds, desc="testing", unit="fold") as bar:
        for fold in range(settings.folds):
            out = folds == fold
            decisions[out] = fit(x[~out], labels[~out], settings).decide(x[out])
            bar.update()
    clean = labels == 0
    threshold = settings.threshold
    if threshold is None:
        threshold = choose_threshold(margins(decisions), clean, settings.precision)
    return HeldOut(labels, decisions, threshold)


def _folds(labels: Int[np.ndarray, " n"], groups: Sequence[str], folds: int) -> dict[str, int]:
    """The fold in which each group is held out: large ones first, each to the fold with least of its class."""
    fold_of: dict[str, int] = {}
    names = np.array(groups)
    for label, name in enumerate(CLASSES):
        sizes = {group: int((names[labels == label] == group).sum()) for group in sorted(set(names[labels == label]))}
        filled = np.zeros(folds)
        for group, size in sizes.items():
            if group in fold_of:
                filled[fold_of[group]] += size
        for group in sorted(sizes.keys() - fold_of.keys(), key=lambda group: (-sizes[group], group)):
            fold_of[group] = int(filled.argmin())
            filled[fold_of[group]] += sizes[group]
        if np.count_nonzero(filled) < 2:
            raise ClassifierError(
                f"all pictures of {name!r} are of one video, so nothing can be held out: take them from more videos"
            )
    return fold_of


def choose_threshold(margin: Float[np.ndarray, " n"], clean: Bool[np.ndarray, " n"], precision: float) -> float:
    """The lowest margin from which on the frames are clean to this share; if there is none, the best."""
    order = np.argsort(-margin, kind="stable")
    precisions = np.cumsum(clean[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(precisions >= min(precision, precisions.max()))
    return float(margin[order[good[-1]]])


def precision_and_recall(is_so: Bool[np.ndarray, " n"], said: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Of what was said, how much is so; of what is so, how much was said. 0 where there is nothing."""
    both = float((is_so & said).sum())
    return both / max(1, said.sum()), both / max(1, is_so.sum())
