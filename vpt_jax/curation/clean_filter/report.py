"""What a filter can do, as a page: found on frames of videos that it had not seen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from vpt_jax.curation.clean_filter.classifier import CLASSES, margins
from vpt_jax.curation.clean_filter.labelled_set import LabelledFrame, read_picture
from vpt_jax.curation.clean_filter.training import HeldOut, precision_and_recall
from vpt_jax.report.page import Line, curve, facts_list, grid, heatmap, page, paragraph, picture, section, table
from vpt_jax.system.atomic_files import write_text
from vpt_jax.video import resize

EXAMPLES = 4  # pictures of each kind of mistake
_HEIGHT, _WIDTH = 180, 320  # of an example
_ABOUT = (
    "Every frame was judged by a machine that had not seen its video. Clean is what reaches the threshold that was "
    "chosen on the other folds. The margin below is the one that new frames have to reach, chosen on all folds."
)
_CURVE = "Each point is a threshold: where more clean frames are found, more of what is found is not clean."


def figures(held_out: HeldOut) -> dict[str, str]:
    """What counts most, in words."""
    clean, said = held_out.labels == 0, held_out.predictions() == 0
    precision, recall = precision_and_recall(clean, said)
    right = float((held_out.predictions() == held_out.labels).mean())
    return {
        "precision of clean": f"{precision:.3f}",
        "recall of clean": f"{recall:.3f}",
        "frames in the right class": f"{right:.3f} (always the largest class: {_majority(held_out.labels):.3f})",
        "clean from margin": f"{held_out.threshold:.3f}",
        "held-out frames": f"{len(clean):,}",
    }


def _majority(labels: Int[np.ndarray, " n"]) -> float:
    return float(np.bincount(labels).max() / len(labels))


def write_report(path: Path, frames: Sequence[LabelledFrame], held_out: HeldOut) -> None:
    """Writes the page; the n-th frame is the one that the n-th row of `held_out` is about."""
    sections = [
        section("Held-out frames", paragraph(_ABOUT), facts_list(figures(held_out)), _classes(held_out)),
        section("What is taken for what", _confusion(held_out)),
        section("Other thresholds", paragraph(_CURVE), _trade(held_out)),
        *_mistakes(frames, held_out),
    ]
    write_text(path, page("Clean filter", sections))


def _classes(held_out: HeldOut) -> str:
    predictions, rows = held_out.predictions(), []
    largest = int(np.bincount(held_out.labels).argmax())
    for number, name in enumerate(CLASSES):
        is_so = held_out.labels == number
        trivial = precision_and_recall(is_so, np.full(len(is_so), number == largest))
        rows.append((name, *precision_and_recall(is_so, predictions == number), *trivial, f"{is_so.sum():,}"))
    columns = ("Class", "Precision", "Recall", "Precision, always the largest class", "Recall, the same", "Frames")
    return table(columns, rows)


def _confusion(held_out: HeldOut) -> str:
    counts = np.zeros((len(CLASSES), len(CLASSES)))
    np.add.at(counts, (held_out.labels, held_out.predictions()), 1)
    return heatmap(
        "Taken for (columns), in % of the frames that are so (rows)", CLASSES, CLASSES,
        counts / np.maximum(1, counts.sum(1, keepdims=True)),
    )  # fmt: skip


def _trade(held_out: HeldOut) -> str:
    order = np.argsort(-margins(held_out.decisions), kind="stable")
    found = np.cumsum(held_out.labels[order] == 0)
    shown = np.unique(np.linspace(0, len(order) - 1, 200).astype(int))
    recalls, precisions = 100 * found / found[-1], found / np.arange(1, len(found) + 1)
    line = Line("precision", recalls[shown].tolist(), precisions[shown].tolist(), "model")
    return curve("Precision by recall of clean", [line], "recall of clean frames, %", "precision")


def _mistakes(frames: Sequence[LabelledFrame], held_out: HeldOut) -> list[str]:
    """A section for each pair of classes that were mixed up; the most certain mistakes first."""
    predictions, sections = held_out.predictions(), []
    for label, name in enumerate(CLASSES):
        for said, other in enumerate(CLASSES):
            wrong = np.flatnonzero((held_out.labels == label) & (predictions == said))
            if said == label or not len(wrong):
                continue
            worst = wrong[np.argsort(-held_out.decisions[wrong, said], kind="stable")][:EXAMPLES]
            shown = [picture(resize(read_picture(frames[i].path), _HEIGHT, _WIDTH), frames[i].path.name) for i in worst]
            sections.append(section(f"{name}, taken for {other}: {len(wrong):,} frames", grid(shown, 16)))
    return sections
