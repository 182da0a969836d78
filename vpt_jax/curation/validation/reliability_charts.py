"""Charts of reliability curves: the share that came true against the predicted probability."""

from collections.abc import Mapping, Sequence
from typing import Any

from vpt_jax.report import page

_TEXT = "On the dashed line, what is predicted with a probability comes true as often."


def reliability_section(results: Mapping[str, Any]) -> str:
    """Section of an HTML page: curves of whole labels and, of a model, of every key and axis."""
    charts = [_chart("Whole labels: all keys and axes right", results["confidence"]["curve"])]
    for name, calibration in results.get("calibration", {}).items():
        if len(calibration["curve"]) > 1:
            charts.append(_chart(name, calibration["curve"]))
    return page.section("Reliability", page.paragraph(_TEXT), page.grid(charts, 24))


def _chart(title: str, curve: Sequence[Mapping[str, float]]) -> str:
    probability, true = ([point[field] for point in curve] for field in ("probability", "true"))
    lines = [page.Line("", [0, 1], [0, 1], "trivial", "--", 1.0), page.Line("", probability, true, "model")]
    return page.curve(title, lines, "predicted probability", "share that came true", 1.0)
