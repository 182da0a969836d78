"""Tables of the scores of predicted actions: metrics beside baselines, calibration, thresholds."""

import math
from collections.abc import Mapping
from typing import Any

from vpt_jax.curation.validation.tables import Rows, Table
from vpt_jax.evaluation.resampling import Figure

TITLES = {
    "nll": "Loss, nats per frame",
    "key_accuracy": "Each key right, all frames",
    "key_exact": "Frames with all keys right",
    "f1/mean": "F1 of held keys, mean",
    "event_f1/mean": "F1 of presses and releases within one frame, mean",
    "exact_event_f1/mean": "F1 of presses and releases in their frame, mean",
    "event_precision": "Presses and releases within one frame: precision, all keys",
    "event_recall": "Presses and releases within one frame: recall, all keys",
    "press_f1": "F1 of presses within one frame, all keys",
    "release_f1": "F1 of releases within one frame, all keys",
    "camera_accuracy": "All axes in the right bin",
}
# By the start of the name; the rest is that of an axis or key.
AXIS_TITLES = {
    "mouse_r2/": "R2",
    "d2e/pearson/": "D2E: Pearson correlation",
    "d2e/scale_ratio/": "D2E: scale ratio (1 is best)",
    "d2e/count_accuracy/keys": "D2E: count accuracy of keys",
    "d2e/count_accuracy/buttons": "D2E: count accuracy of mouse buttons",
}
RIGHT = {"keys": "all keys", "all": "all keys and axes"}
PER_KEY = ("f1", "event_precision", "event_recall", "event_f1", "d2e/count_accuracy")
BASELINES = {"released": "Nothing held", "repeat": "Previous action"}


def score_tables(results: Mapping[str, Any]) -> list[Table]:
    """All tables of `score`'s results."""
    tables = [_metrics_table(results), _keys_table(results), _threshold_table(results), _confidence_table(results)]
    if "calibration" in results:
        tables += [_calibration_table(results), _temperature_table(results)]
    return tables


def figure_text(figure: Figure) -> str:
    """A figure with its interval; "-" if it is not defined."""
    if math.isnan(figure.value):
        return "-"
    if math.isnan(figure.low):
        return f"{figure.value:z.3f}"
    return f"{figure.value:z.3f} ({figure.low:z.3f} to {figure.high:z.3f})"


def _metrics_table(results: Mapping[str, Any]) -> Table:
    metrics, baselines = results["metrics"], results["baselines"]
    titles = {name: title for name, title in TITLES.items() if name in metrics}
    titles |= {name: f"{title}, {name.removeprefix(start)}" if start.endswith("/") else title
               for start, title in AXIS_TITLES.items() for name in metrics if name.startswith(start)}  # fmt: skip
    rows: Rows = [
        [title, *(figure_text(each[name]) if name in each else "-" for each in (metrics, *baselines.values()))]
        for name, title in titles.items()
        if not math.isnan(metrics[name].value)
    ]
    note = (
        f"{results['frames']:,} frames of {results['episodes']} episodes. In brackets, 95% intervals over episodes. "
        "The previous action is the recorded one, which a video does not contain: it has no presses or releases, since "
        "they would be changes from it. D2E's metrics are by the definition of their evaluation, in bins of 50 ms, a "
        "frame."
    )
    return Table("Predicted and recorded actions", ["", "Predicted", *(BASELINES[b] for b in baselines)], rows, note)


def _keys_table(results: Mapping[str, Any]) -> Table:
    metrics = results["metrics"]
    summaries = {"keys", "buttons", "mean"}
    used = dict.fromkeys(
        name.rpartition("/")[2] for start in PER_KEY for name in metrics if name.startswith(f"{start}/")
    )
    keys = [key for key in used if key not in summaries]
    rows: Rows = [
        [key, *(figure_text(metrics[f"{start}/{key}"]) if f"{start}/{key}" in metrics else "-" for start in PER_KEY)]
        for key in keys
    ]
    columns = ["", "F1, held", "Event precision", "Event recall", "Event F1", "D2E: count accuracy"]
    return Table("Each key", columns, rows, "Events are presses and releases, found within one frame.")


def _threshold_table(results: Mapping[str, Any]) -> Table:
    rows: Rows = []
    for name, threshold in results["thresholds"].items():
        right, _, acting = name.partition(", ")
        labels = "not null" if acting else "all"
        rows.append([RIGHT[right], labels, *map(_threshold_text, threshold)])
    for key, threshold in results.get("key_thresholds", {}).items():
        rows.append([f"{key} held", f"{key} held", *map(_threshold_text, threshold)])
    note = (
        f"The lowest confidence that keeps {results['precision']:.0%} of the labels right: for config.data."
        "min_confidence, that of the row whose labels and errors matter. The confidence is the probability of the "
        "whole label; in rows of one key, that this key is held. The interval of the precision is that of this "
        "threshold on resampled episodes."
    )
    return Table("Thresholds", ["Right", "Of labels", "Confidence", "Kept", "Precision"], rows, note)


def _threshold_text(figure: Figure) -> str:
    return "not reached" if math.isnan(figure.value) else figure_text(figure)


def _confidence_table(results: Mapping[str, Any]) -> Table:
    ece = results["confidence"]["ece"]
    rows: Rows = [
        [f"{point['probability']:.3f}", f"{point['true']:.3f}", f"{point['cases']:,}"]
        for point in results["confidence"]["curve"]
    ]
    note = f"Of whole labels, all keys and axes. Expected calibration error: {figure_text(ece)}."
    return Table("Reliability of the confidence", ["Mean confidence", "Share right", "Labels"], rows, note)


def _calibration_table(results: Mapping[str, Any]) -> Table:
    before, after = results["calibration"], results["calibration_after"]
    rows: Rows = [
        [name, figure_text(before[name]["ece"]), figure_text(after[name]["ece"])]
        for name in before
        if len(before[name]["curve"]) > 1
    ]
    note = (
        "Expected calibration error of the probability that a key is held, and of the likeliest bin of an axis, in "
        "10 bins. Afterwards, half of the episodes are at the temperatures fitted on the other half. Keys whose "
        "probability never leaves the first bin are left out. score.json has the reliability curves."
    )
    return Table("Calibration of the model", ["", "ECE", "ECE with temperature"], rows, note)


def _temperature_table(results: Mapping[str, Any]) -> Table:
    rows: Rows = [[head, figure_text(figure)] for head, figure in results["temperatures"].items()]
    note = "By maximum likelihood of the recorded actions; above 1: the model is too sure of itself."
    return Table("Temperatures", ["Head", "Temperature"], rows, note)
