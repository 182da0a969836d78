"""Building blocks of a page: charts, heatmaps."""

import re
from itertools import pairwise

import numpy as np
import pytest

from vpt_jax.report.page import Line, curve, heatmap

from ..html_page import Page

LINES = [Line("low", [0, 9], [0, 1], "trivial"), Line("same", [0, 9], [2, 1], "repeat"), Line("", [5], [7], "train")]


def test_chart_has_the_theme_colours_and_labels_that_do_not_overlap():
    chart = curve("A <title>", LINES, "steps", "unit & more")
    page = Page(chart)
    assert page.text("figcaption") == ["A <title>"]
    assert {"steps", "unit & more", "low 1.00", "same 1.00"} <= set(page.text("text"))
    assert not re.search(r"#[0-9a-f]{6}\b", chart)
    assert {"var(--trivial)", "var(--repeat)", "var(--train)"} <= set(re.findall(r"var\(--\w+\)", chart))
    heights = re.findall(r'y="([\d.]+)"[^>]*>(?:low|same) 1.00<', chart)
    assert all(abs(float(a) - float(b)) > 9 for a, b in pairwise(sorted(heights)))  # the height of the letters
    assert len(heights) == 2
    assert chart == curve("A <title>", LINES, "steps", "unit & more")


def test_chart_with_a_logarithmic_axis():
    chart = curve("t", [Line("model", [5, 10, 20], [0.1, 0.3, 0.2], "model")], "minutes", "", log_ticks=[5, 10, 20])
    ticks = re.findall(r'<text [^>]*middle[^>]* x="([\d.]+)"[^>]*>([\d.]+)<', chart)
    assert [text for _, text in ticks] == ["5", "10", "20"]
    positions = [float(x) for x, _ in ticks]
    assert positions[2] - positions[1] == pytest.approx(positions[1] - positions[0])  # equal ratios, equal distances
    assert [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"', chart)] == positions  # points are marked


def test_heatmap_colours_every_cell_and_leaves_small_shares_blank():
    html = heatmap("A <title>", ["up", "d<wn"], ["-1", "0", "+1"], np.array([[0, 0.004, 1], [0.5, 0.25, 0.006]]))
    page = Page(html)
    assert page.text("figcaption") == ["A <title>"]
    assert page.text("th") == ["-1", "0", "+1", "up", "d<wn"]
    assert page.text("td") == ["100", "50", "25"]
    shares = [value for tag, name, value in page.attributes if (tag, name) == ("td", "style")]
    assert shares == [f"--share: {share}" for share in ("0.000", "0.004", "1.000", "0.500", "0.250", "0.006")]
