"""Training of the clean filter: labelled frames in, a classifier and its report out.

What the report says was found on frames of groups (videos) that the machine had not seen: in every one of some folds,
others are held out. The machine that is kept then learns from all.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from ml_collections import ConfigDict

from vpt_jax.curation.clean_filter import labelled_set
from vpt_jax.curation.clean_filter.classifier import CLASSES, ClassifierError, Machine, describe, margins
from vpt_jax.curation.clean_filter.embedders import Embedder
from vpt_jax.curation.clean_filter.labelled_set import LabelledFrame
from vpt_jax.curation.clean_filter.novelty import CellMap, Memory, chosen, remember
from vpt_jax.system.workers import progress_bar
from vpt_jax.video import resize

BATCH = 32  # frames embedded at a time

Labels = Int[np.ndarray, " n"]  # numbers of classes
Groups = Shaped[np.ndarray, " n"]  # names
Memories = tuple[Memory | None, ...]


class HeldOut(NamedTuple):
    """What a machine said of frames it had not seen. `n` frames."""

    labels: Labels
    decisions: Float[np.ndarray, "n 3"]
    thresholds: Float[np.ndarray, " n"]  # of the margin, for each frame chosen on the frames of the other folds
    threshold: float  # chosen on all of them, for new frames

    def predictions(self) -> Labels:
        """Clean where the margin reaches the threshold that other folds chose, else the likelier of the others."""
        return classify(self.decisions, self.thresholds)


def classify(decisions: Float[np.ndarray, "n 3"], threshold: float | Float[np.ndarray, " n"]) -> Labels:
    """Number of the class of every frame: clean is what reaches the threshold."""
    return np.where(margins(decisions) >= threshold, 0, 1 + decisions[:, 1:].argmax(-1))


def embed_pictures(frames: Sequence[LabelledFrame], embedder: Embedder) -> list[CellMap]:
    """Embeddings of labelled frames."""
    batches = []
    with progress_bar(len(frames), desc="embedding", unit=" frames") as bar:
        for at in range(0, len(frames), BATCH):
            pictures = [resize(labelled_set.read_picture(frame.path), *embedder.size) for frame in frames[at:][:BATCH]]
            batches.append(embed_batch(np.stack(pictures), embedder))
            bar.update(len(pictures))
    return [np.concatenate(maps) for maps in zip(*batches, strict=True)]


def embed_batch(frames: UInt8[np.ndarray, "n h w 3"], embedder: Embedder) -> list[CellMap]:
    """Embeddings of up to `BATCH` frames; the embedder always gets as many, so it is compiled once."""
    filled = np.zeros((BATCH, *frames.shape[1:]), np.uint8)
    filled[: len(frames)] = frames
    return [cells[: len(frames)] for cells in embedder.embed(filled)]


def check(config: ConfigDict) -> None:
    """Raises ClassifierError where a field of the config makes no sense."""
    if config.folds < 2:
        raise ClassifierError(f"config.folds is {config.folds}, and must be 2 or more")
    if config.C <= 0:
        raise ClassifierError(f"config.C is {config.C}, and must be above 0")
    if not 0 < config.precision <= 1:
        raise ClassifierError(f"config.precision is {config.precision}, and must be above 0 and at most 1")


def fit(maps: Sequence[CellMap], labels: Labels, groups: Groups, C: float) -> tuple[Memories, Machine]:
    """What has been learnt from these embeddings: clean cells, and a machine that knows how new cells may be.

    While it learns, pictures of a group are not compared with clean ones of that group, as new ones will not be.

    Raises ClassifierError if scikit-learn is missing.
    """
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ClassifierError(
            'training a filter needs scikit-learn: pip install -c constraints.txt -e ".[filter]"'
        ) from error
    clean = labels == 0
    memories = tuple(remember(cells[clean]) if cells.shape[1] > 1 else None for cells in maps)
    own = groups[:, None] == groups[clean][chosen(int(clean.sum()))]
    x = describe(maps, memories, own)
    mean, scale = x.mean(0), x.std(0) + 1e-9
    svc = SVC(C=C, gamma="scale", break_ties=True).fit((x - mean) / scale, labels)
    machine = Machine(
        mean, scale, svc.support_vectors_, svc.n_support_, svc.dual_coef_, svc.intercept_, np.array(svc._gamma)
    )  # fmt: skip
    return memories, machine


def hold_out(maps: Sequence[CellMap], labels: Labels, groups: Groups, config: ConfigDict) -> HeldOut:
    """What machines say of the groups that each has not seen. Raises ClassifierError if there are too few groups."""
    fold_of = _folds(labels, groups, config.folds)
    folds = np.array([fold_of[group] for group in groups])
    decisions = np.zeros((len(labels), len(CLASSES)))
    with progress_bar(config.folds, desc="testing", unit="fold") as bar:
        for fold in range(config.folds):
            out = folds == fold
            memories, machine = fit([cells[~out] for cells in maps], labels[~out], groups[~out], config.C)
            decisions[out] = machine.decide(describe([cells[out] for cells in maps], memories))
            bar.update()
    if config.threshold is not None:
        return HeldOut(labels, decisions, np.full(len(labels), config.threshold), config.threshold)
    margin, clean = margins(decisions), labels == 0
    thresholds = cross_fit_thresholds(margin, clean, folds, config.precision)
    return HeldOut(labels, decisions, thresholds, choose_threshold(margin, clean, config.precision))


def _folds(labels: Labels, groups: Groups, folds: int) -> dict[str, int]:
    """The fold in which each group is held out: large ones first, each to the fold with least of its class."""
    fold_of: dict[str, int] = {}
    for label, name in enumerate(CLASSES):
        sizes = {group: int((groups[labels == label] == group).sum()) for group in sorted(set(groups[labels == label]))}
        filled = np.zeros(folds)
        for group, size in sizes.items():
            if group in fold_of:
                filled[fold_of[group]] += size
        for group in sorted(sizes.keys() - fold_of.keys(), key=lambda group: (-sizes[group], group)):
            fold_of[group] = int(filled.argmin())
            filled[fold_of[group]] += sizes[group]
        if len(sizes) < (needed := 3 if name == "clean" else 2):  # clean ones are compared with those of other videos
            raise ClassifierError(
                f"the pictures of {name!r} are of {len(sizes)} videos, and {needed} are needed to hold some out: "
                "take them from more videos, and name them as docs/filtering.md says"
            )
    return fold_of


def choose_threshold(margin: Float[np.ndarray, " n"], clean: Bool[np.ndarray, " n"], precision: float) -> float:
    """The lowest margin from which on the frames are clean to this share; if there is none, the best."""
    order = np.argsort(-margin, kind="stable")
    precisions = np.cumsum(clean[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(precisions >= min(precision, precisions.max()))
    return float(margin[order[good[-1]]])


def cross_fit_thresholds(
    margin: Float[np.ndarray, " n"], clean: Bool[np.ndarray, " n"], folds: Int[np.ndarray, " n"], precision: float
) -> Float[np.ndarray, " n"]:
    """For every frame the threshold that the other folds choose: so no frame is judged by one that it chose."""
    thresholds = np.zeros(len(margin))
    for fold in np.unique(folds):
        out = folds == fold
        thresholds[out] = choose_threshold(margin[~out], clean[~out], precision)
    return thresholds


def precision_and_recall(is_so: Bool[np.ndarray, " n"], said: Bool[np.ndarray, " n"]) -> tuple[float, float]:
    """Of what was said, how much is so; of what is so, how much was said. 0 where there is nothing."""
    both = float((is_so & said).sum())
    return both / max(1, said.sum()), both / max(1, is_so.sum())
