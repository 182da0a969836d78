"""Training of the clean filter: labelled frames in; a classifier, and its report from grouped k-fold cross-validation.

The metrics of the report come from held-out frames: each fold holds out other groups (videos). The classifier that is
saved is then trained on all frames.
"""

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from ml_collections import ConfigDict

from vpt_jax.curation.clean_filter import labelled_set
from vpt_jax.curation.clean_filter.classifier import CLASSES, ClassifierError, SVMClassifier, margins, svm_features
from vpt_jax.curation.clean_filter.embedders import Embedder
from vpt_jax.curation.clean_filter.labelled_set import LabelledFrame
from vpt_jax.curation.clean_filter.novelty import CellMap, PatchMemory, build_patch_memory, subsample_indices
from vpt_jax.system.workers import progress_bar
from vpt_jax.video import resize

BATCH = 32  # frames embedded at a time
# Videos of each class to train on: clean pictures are compared with those of other videos.
_NEEDED = {"clean": 2, "artifacts": 1, "other": 1}

Labels = Int[np.ndarray, " n"]  # indices into `CLASSES`
Groups = Shaped[np.ndarray, " n"]  # names of videos
PatchMemories = tuple[PatchMemory | None, ...]


class CrossValidationResult(NamedTuple):
    """Scores of `n` frames, each by the model of the fold that holds it out."""

    labels: Labels
    decisions: Float[np.ndarray, "n 3"]
    thresholds: Float[np.ndarray, " n"]  # on the margin; for each frame chosen on the frames of the other folds
    threshold: float  # chosen on all of them, for new frames

    def predictions(self) -> Labels:
        """Predicted classes: clean where the margin reaches the frame's threshold, else the likelier of the others."""
        return classify(self.decisions, self.thresholds)


def classify(decisions: Float[np.ndarray, "n 3"], threshold: float | Float[np.ndarray, " n"]) -> Labels:
    """Class index of every frame: clean if its margin reaches the threshold, else the likelier of the others."""
    return np.where(margins(decisions) >= threshold, 0, 1 + decisions[:, 1:].argmax(-1))


def embed_pictures(frames: Sequence[LabelledFrame], embedder: Embedder) -> list[CellMap]:
    """Embeddings of labelled frames, one array per map of the embedder."""
    batches = []
    with progress_bar(len(frames), desc="embedding", unit=" frames") as bar:
        for start in range(0, len(frames), BATCH):
            batch = frames[start : start + BATCH]
            pictures = [resize(labelled_set.read_picture(frame.path), *embedder.size) for frame in batch]
            batches.append(embed_batch(np.stack(pictures), embedder))
            bar.update(len(pictures))
    return [np.concatenate(maps) for maps in zip(*batches, strict=True)]


def embed_batch(frames: UInt8[np.ndarray, "n h w 3"], embedder: Embedder) -> list[CellMap]:
    """Embeddings of up to `BATCH` frames, padded to `BATCH` for the embedder so that it is compiled once."""
    padded = np.zeros((BATCH, *frames.shape[1:]), np.uint8)
    padded[: len(frames)] = frames
    return [cells[: len(frames)] for cells in embedder.embed(padded)]


def check_config(config: ConfigDict) -> None:
    """Raises ClassifierError for an invalid field of the config."""
    if config.num_folds < 2:
        raise ClassifierError(f"config.num_folds is {config.num_folds}, and must be 2 or more")
    if config.svm_c <= 0:
        raise ClassifierError(f"config.svm_c is {config.svm_c}, and must be above 0")
    if not 0 < config.min_precision <= 1:
        raise ClassifierError(f"config.min_precision is {config.min_precision}, and must be above 0 and at most 1")


def _import_sklearn() -> Any:
    """Imports scikit-learn, which training alone needs."""
    try:
        import sklearn.metrics
        import sklearn.model_selection
        import sklearn.svm
    except ImportError as error:
        raise ClassifierError(
            'training a filter needs scikit-learn: pip install -c constraints.txt -e ".[filter]"'
        ) from error
    return sklearn


def fit(maps: Sequence[CellMap], labels: Labels, groups: Groups, svm_c: float) -> tuple[PatchMemories, SVMClassifier]:
    """Builds the patch memories of the clean pictures, and trains the SVM on distances to them.

    In training, pictures of a group are not compared with clean ones of the same group, since new pictures come from
    other videos too.

    Args:
        maps: embeddings of `n` frames, one array per map of the embedder.
        labels: class indices.
        groups: videos that the frames come from.
        svm_c: the SVM's penalty C (`config.svm_c`).

    Raises:
        ClassifierError: scikit-learn is missing.
    """
    sklearn = _import_sklearn()
    clean = labels == 0
    memories = tuple(build_patch_memory(cells[clean]) if cells.shape[1] > 1 else None for cells in maps)
    same_group = groups[:, None] == groups[clean][subsample_indices(int(clean.sum()))]
    x = svm_features(maps, memories, same_group)
    mean, scale = x.mean(0), x.std(0) + 1e-9
    svc = sklearn.svm.SVC(C=svm_c, gamma="scale", break_ties=True).fit((x - mean) / scale, labels)
    svm = SVMClassifier(
        mean, scale, svc.support_vectors_, svc.n_support_, svc.dual_coef_, svc.intercept_, np.array(svc._gamma)
    )  # fmt: skip
    return memories, svm


def cross_validate(
    maps: Sequence[CellMap], labels: Labels, groups: Groups, config: ConfigDict
) -> CrossValidationResult:  # fmt: skip
    """Grouped k-fold cross-validation: every group is scored by a model trained without it.

    Raises ClassifierError if there are too few groups, or scikit-learn is missing.
    """
    folds = assign_folds(labels, groups, config.num_folds)
    decisions = np.zeros((len(labels), len(CLASSES)))
    with progress_bar(folds.max() + 1, desc="cross-validation", unit="fold") as bar:
        for fold in range(folds.max() + 1):
            out = folds == fold
            memories, svm = fit([cells[~out] for cells in maps], labels[~out], groups[~out], config.svm_c)
            decisions[out] = svm.decision_function(svm_features([cells[out] for cells in maps], memories))
            bar.update()
    if config.threshold is not None:
        return CrossValidationResult(labels, decisions, np.full(len(labels), config.threshold), config.threshold)
    margin, clean = margins(decisions), labels == 0
    thresholds = cross_fit_thresholds(margin, clean, folds, config.min_precision)
    threshold = choose_threshold(margin, clean, config.min_precision)
    return CrossValidationResult(labels, decisions, thresholds, threshold)


def assign_folds(labels: Labels, groups: Groups, folds: int) -> Int[np.ndarray, " n"]:
    """Stratified group k-fold: the fold that holds each frame out, with all frames of its group; fewer if few groups.

    Raises ClassifierError if a fold's training frames lack a class, or have clean ones of a single group.
    """
    for label, name in enumerate(CLASSES):
        if (count := len(set(groups[labels == label]))) < (needed := _NEEDED[name] + 1):
            raise ClassifierError(
                f"the pictures of {name!r} come from {count} videos, and {needed} are needed for "
                "cross-validation: take them from more videos, and name them as docs/filtering.md describes"
            )
    splits = min(folds, len(set(groups)), int(np.bincount(labels).max()))
    fold_of = np.empty(len(labels), int)
    kfold = _import_sklearn().model_selection.StratifiedGroupKFold(splits)
    with warnings.catch_warnings(action="ignore"):  # of classes with fewer frames than folds: checked below
        for fold, (_, held_out) in enumerate(kfold.split(labels, labels, groups)):
            fold_of[held_out] = fold
    for label, name in enumerate(CLASSES):
        for fold in range(splits):
            if len(set(groups[(labels == label) & (fold_of != fold)])) < _NEEDED[name]:
                raise ClassifierError(
                    f"a fold holds out too many of the videos with pictures of {name!r}: set config.num_folds, which "
                    f"is {folds}, higher, or take the pictures from more videos"
                )
    return fold_of


def choose_threshold(margin: Float[np.ndarray, " n"], clean: Bool[np.ndarray, " n"], precision: float) -> float:
    """The lowest threshold on the margin with at least this precision; if there is none, that of the best precision."""
    precisions, _, thresholds = _import_sklearn().metrics.precision_recall_curve(clean, margin)
    precisions = precisions[:-1]  # the last one is of no frame
    return float(thresholds[np.argmax(precisions >= min(precision, precisions.max()))])  # the first, since they ascend


def cross_fit_thresholds(
    margin: Float[np.ndarray, " n"], clean: Bool[np.ndarray, " n"], folds: Int[np.ndarray, " n"], precision: float
) -> Float[np.ndarray, " n"]:
    """The threshold for every frame, chosen on the other folds, so that no frame influences its own threshold."""
    thresholds = np.zeros(len(margin))
    for fold in np.unique(folds):
        out = folds == fold
        thresholds[out] = choose_threshold(margin[~out], clean[~out], precision)
    return thresholds


def precision_and_recall(actual: Bool[np.ndarray, " n"], predicted: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Precision and recall of a binary prediction; 0 where the denominator is 0."""
    true_positives = float((actual & predicted).sum())
    return true_positives / max(1, predicted.sum()), true_positives / max(1, actual.sum())
