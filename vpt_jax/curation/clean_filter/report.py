"""HTML report of a filter: metrics on held-out frames, from videos that are not in the training set of their fold."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vpt_jax.curation.clean_filter.classifier import CLASSES, margins
from vpt_jax.curation.clean_filter.labelled_set import LabelledFrame, read_picture
from vpt_jax.curation.clean_filter.training import CrossValidationResult, precision_and_recall
from vpt_jax.report.page import Line, curve, facts_list, grid, heatmap, page, paragraph, picture, section, table
from vpt_jax.system.atomic_files import write_text
from vpt_jax.video import resize

EXAMPLES = 4  # pictures of each kind of misclassification
_HEIGHT, _WIDTH = 180, 320  # of an example
_ABOUT = (
    "Every frame was classified by a model that was trained without its video. A frame is predicted clean if it "
    "reaches the threshold that was chosen on the other folds. The margin below is the threshold for new frames, "
    "chosen on all folds."
)
_CURVE = "Each point is a threshold: a higher recall of clean frames costs precision."


def summary_metrics(held_out: CrossValidationResult) -> dict[str, str]:
    """Formatted precision and recall of clean, accuracy, threshold and number of held-out frames."""
    clean, predicted = held_out.labels == 0, held_out.predictions() == 0
    precision, recall = precision_and_recall(clean, predicted)
    accuracy = float((held_out.predictions() == held_out.labels).mean())
    return {
        "precision of clean": f"{precision:.3f}",
        "recall of clean": f"{recall:.3f}",
        "accuracy": f"{accuracy:.3f} (always the largest class: {_majority_share(held_out.labels):.3f})",
        "clean from margin": f"{held_out.threshold:.3f}",
        "held-out frames": f"{len(clean):,}",
    }


def _majority_share(labels: Int[np.ndarray, " n"]) -> float:
    return float(np.bincount(labels).max() / len(labels))


def write_report(path: Path, frames: Sequence[LabelledFrame], held_out: CrossValidationResult) -> None:
    """Writes the HTML page; the n-th of `frames` belongs to the n-th row of `held_out`."""
    sections = [
        section("Held-out frames", paragraph(_ABOUT), facts_list(summary_metrics(held_out)), _class_table(held_out)),
        section("Confusion matrix", _confusion_matrix(held_out)),
        section("Other thresholds", paragraph(_CURVE), _precision_recall_curve(held_out)),
        *_misclassified(frames, held_out),
    ]
    write_text(path, page("Clean filter", sections))


def _class_table(held_out: CrossValidationResult) -> str:
    predictions, rows = held_out.predictions(), []
    largest = int(np.bincount(held_out.labels).argmax())
    for number, name in enumerate(CLASSES):
        actual = held_out.labels == number
        trivial = precision_and_recall(actual, np.full(len(actual), number == largest))
        rows.append((name, *precision_and_recall(actual, predictions == number), *trivial, f"{actual.sum():,}"))
    columns = ("Class", "Precision", "Recall", "Precision, always the largest class", "Recall, the same", "Frames")
    return table(columns, rows)


def _confusion_matrix(held_out: CrossValidationResult) -> str:
    counts = np.zeros((len(CLASSES), len(CLASSES)))
    np.add.at(counts, (held_out.labels, held_out.predictions()), 1)
    return heatmap(
        "Predicted class (columns), in % of the frames of the true class (rows)", CLASSES, CLASSES,
        counts / np.maximum(1, counts.sum(1, keepdims=True)),
    )  # fmt: skip


def _precision_recall_curve(held_out: CrossValidationResult) -> str:
    order = np.argsort(-margins(held_out.decisions), kind="stable")
    true_positives = np.cumsum(held_out.labels[order] == 0)
    shown = np.unique(np.linspace(0, len(order) - 1, 200).astype(int))
    recalls = 100 * true_positives / true_positives[-1]
    precisions = true_positives / np.arange(1, len(order) + 1)
    line = Line("precision", recalls[shown].tolist(), precisions[shown].tolist(), "model")
    return curve("Precision by recall of clean", [line], "recall of clean frames, %", "precision")


def _misclassified(frames: Sequence[LabelledFrame], held_out: CrossValidationResult) -> list[str]:
    """A section for each confused pair of classes; the misclassified frames with the highest scores first."""
    predictions, sections = held_out.predictions(), []
    for label, name in enumerate(CLASSES):
        for predicted, other in enumerate(CLASSES):
            wrong = np.flatnonzero((held_out.labels == label) & (predictions == predicted))
            if predicted == label or not len(wrong):
                continue
            worst = wrong[np.argsort(-held_out.decisions[wrong, predicted], kind="stable")][:EXAMPLES]
            shown = [picture(resize(read_picture(frames[i].path), _HEIGHT, _WIDTH), frames[i].path.name) for i in worst]
            sections.append(section(f"{name}, predicted as {other}: {len(wrong):,} frames", grid(shown, 16)))
    return sections
