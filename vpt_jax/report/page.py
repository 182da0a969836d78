"""Building blocks of HTML pages: each function returns HTML, and escapes its text arguments.

A page is a self-contained file: styles, charts, pictures and films are embedded, and nothing is loaded from elsewhere.
It follows the light or dark theme of the browser.
"""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Name: (on light background, on dark background). Charts are drawn in the light colours, which are then replaced by CSS
# variables. As text, all have a contrast of 4.5 or more with the background.
COLOURS = {
    "ground": ("#fcfcfb", "#14171b"),
    "ink": ("#1c2024", "#e6e8ea"),
    "muted": ("#5d666f", "#9aa4ae"),
    "rule": ("#d9dde1", "#343b43"),
    "bar": ("#cfe3f5", "#1f4263"),
    "model": ("#0068a8", "#5cb8f0"),
    "train": ("#007758", "#35c298"),
    "repeat": ("#9b3a77", "#e59cc7"),
    "trivial": ("#b04a00", "#f29450"),
}

_STYLE = """
:root { color-scheme: light dark; LIGHT }
@media (prefers-color-scheme: dark) { :root { DARK } }
body { max-width: 72rem; margin: 0 auto; padding: 1.5rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
p { max-width: 48rem; margin: .5rem 0; color: var(--muted); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .75rem 1.5rem; margin: 0; }
dt { font-size: .85rem; color: var(--muted); }
dd { margin: 0; font-weight: 600; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .9rem; border-bottom: 1px solid var(--rule); text-align: right; }
th:first-child { padding-left: 0; text-align: left; font-weight: 400; }
thead th { font-size: .85rem; font-weight: 600; color: var(--muted); vertical-align: bottom; }
td:nth-child(2) { font-weight: 600; }
td { min-width: 5.2rem; white-space: nowrap; }
section { overflow-x: auto; }
td.share { background: linear-gradient(to right, var(--bar) calc(100% * var(--share)), transparent 0)
  0 50% / 100% 1.5rem no-repeat; }
.heat { font-size: .8rem; width: 100%; }
.heat th, .heat td { padding: .2rem .3rem; min-width: 0; font-weight: 400; text-align: center; border: 0; }
.heat td { background: color-mix(in srgb, var(--bar) calc(100% * var(--share)), var(--ground)); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--column)), 1fr));
  gap: 1.5rem; margin: .75rem 0; }
figure { margin: 0; }
figcaption { font-size: .9rem; color: var(--muted); }
.chart figcaption { font-weight: 600; color: var(--ink); }
svg { width: 100%; height: auto; }
svg text { font-family: inherit !important; }
img, video { width: 100%; display: block; border-radius: 4px; }
"""


def page(title: str, sections: Sequence[str]) -> str:
    """An HTML document of several sections."""
    light, dark = (" ".join(f"--{name}: {pair[theme]};" for name, pair in COLOURS.items()) for theme in (0, 1))
    style = _STYLE.replace("LIGHT", light).replace("DARK", dark)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A section with a heading."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(text)}</p>"


def facts_list(facts: Mapping[str, str]) -> str:
    """A definition list of labels and values."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()) + "</dl>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """A table; the first cell of a row is its heading. Strings are printed unchanged, floats as shares with a bar."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(str(name))}</th>{"".join(map(_cell, cells))}</tr>' for name, *cells in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class="share" style="--share: {value:.4f}">{value:.3f}</td>'


def heatmap(title: str, rows: Sequence[str], columns: Sequence[str], shares: Float[np.ndarray, "r c"]) -> str:
    """A heatmap of shares from 0 to 1 as an HTML table; cells below 1% have no text."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(map(_heat_cell, row))}</tr>'
        for name, row in zip(rows, shares, strict=True)
    )
    cells = f"<thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody>"
    caption = f"<figcaption>{escape(title)}</figcaption>"
    return f'<figure class="chart">{caption}<table class="heat">{cells}</table></figure>'


def _heat_cell(share: float) -> str:
    text = f"{100 * share:.0f}" if share >= 0.01 else ""
    return f'<td style="--share: {share:.3f}">{text}</td>'


def grid(parts: Sequence[str], column: int = 30) -> str:
    """A responsive grid; `column` is the minimum width of a column in rem (multiples of the font size)."""
    return f'<div class="grid" style="--column: {column}rem">\n' + "\n".join(parts) + "\n</div>"


def picture(image: UInt8[np.ndarray, "h w 3"], caption: str) -> str:
    """An RGB image, embedded without loss."""
    lossless = [cv2.IMWRITE_WEBP_QUALITY, 101]  # a seventh of a PNG's bytes, for enlarged frames
    data = cv2.imencode(".webp", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), lossless)[1].tobytes()
    source = f'<img alt="" src="{_data_uri("image/webp", data)}">'
    return f"<figure>{source}<figcaption>{escape(caption)}</figcaption></figure>"


def film(path: Path, caption: str) -> str:
    """An mp4 file, embedded."""
    source = f'<video controls loop muted playsinline src="{_data_uri("video/mp4", path.read_bytes())}"></video>'
    return f"<figure>{source}<figcaption>{escape(caption)}</figcaption></figure>"


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class Line(NamedTuple):
    """A line of a chart; its label and last value are drawn at its right end (not with an empty label).

    Intervals are drawn as error bars if the chart marks points, else as a band. Points of a dashed line are not marked.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str  # a name from COLOURS
    style: str = "-"
    width: float = 1.8
    alpha: float = 1.0
    intervals: Sequence[tuple[float, float]] = ()  # of y; none, or one for each point


def curve(
    title: str,
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    y_max: float | None = None,
    log_ticks: Sequence[float] = (),
    names: Sequence[str] = (),
    points: bool = False,
) -> str:
    """A line chart as inline SVG, in the colours and font of the page.

    Args:
      title: its caption.
      lines: the lines to draw.
      x_label, y_label: axis labels.
      y_max: upper limit of the y axis.
      log_ticks: ticks of a logarithmic x axis, on which points are marked; empty: a linear x axis that starts at 0.
      names: of categories, at x = 0, 1, 2 ...; their points are marked.
      points: mark the points of x values that are measured, on an axis from the smallest to the largest.
    """
    svg, no_metadata = io.StringIO(), dict.fromkeys(("Date", "Format", "Type", "Creator"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}):
        figure = Figure(figsize=(5.2, 3), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            _draw_line(axes, line, "o" if (log_ticks or names or points) and line.style != "--" else "")
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_ylim(top=y_max)
        _style_axes(axes)
        if log_ticks:
            _make_logarithmic(axes, log_ticks)
        if names:
            axes.set_xlim(-0.5, len(names) - 0.5)
            axes.set_xticks(range(len(names)), names)
        if points:
            axes.set_xlim(*_padded([x for line in lines for x in line.x]))
            axes.xaxis.set_major_formatter("{x:g}")
        _label_ends(axes, [line for line in lines if line.label], categories=bool(names))
        figure.savefig(svg, format="svg", transparent=True, metadata=no_metadata)
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{_inline(svg.getvalue(), title)}</figure>'


def _draw_line(axes: Axes, line: Line, marker: str) -> None:
    colour = COLOURS[line.colour][0]
    marker = "o" if len(line.x) == 1 else marker  # a line of one point is invisible
    axes.plot(line.x, line.y, line.style, color=colour, linewidth=line.width, alpha=line.alpha, marker=marker)
    if line.intervals:
        low, high = zip(*line.intervals, strict=True)
        if marker:
            axes.vlines(line.x, low, high, color=colour, linewidth=line.width, alpha=line.alpha)
        else:
            axes.fill_between(line.x, low, high, color=colour, linewidth=0, alpha=0.15)


def _style_axes(axes: Axes) -> None:
    ink, muted, rule = (COLOURS[name][0] for name in ("ink", "muted", "rule"))
    axes.margins(x=0)
    axes.set_xlim(left=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set_color(ink)
        axis.set_tick_params(length=0, labelcolor=muted)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(axis="y", color=rule, lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(rule)


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """Limits of an axis around values."""
    pad = 0.05 * (max(values) - min(values)) or 1.0
    return min(values) - pad, max(values) + pad


def _make_logarithmic(axes: Axes, ticks: Sequence[float]) -> None:
    axes.set_xscale("log")
    axes.set_xlim(min(ticks) / 1.1, max(ticks) * 1.1)
    apart = [tick for tick, larger in pairwise([*ticks, np.inf]) if larger / tick > 1.3]  # texts must not overlap
    axes.set_xticks(apart, [f"{tick:g}" for tick in apart])
    axes.set_xticks([], minor=True)


def _label_ends(axes: Axes, lines: Sequence[Line], gap: float = 0.08, categories: bool = False) -> None:
    """Draw the labels at the right ends, moved apart where they would overlap (`gap`: share of the height).

    With categories, only a constant line has its value: of the others it would be that of the last category.
    """
    low, high = axes.get_ylim()
    lines = sorted(lines, key=lambda line: line.y[-1])
    wanted = np.clip([(line.y[-1] - low) / (high - low) for line in lines], 0, 1)
    stacked = gap * np.arange(len(lines))
    for line, y in zip(lines, np.maximum.accumulate(wanted - stacked) + stacked, strict=True):
        text = line.label if categories and len(set(line.y)) > 1 else f"{line.label} {line.y[-1]:.2f}"
        axes.text(1.02, y, text, color=COLOURS[line.colour][0], va="center", transform=axes.transAxes)


def _inline(svg: str, title: str) -> str:
    """Convert an SVG document to inline SVG: namespaces and ids removed, colours replaced by CSS variables."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"| id="[\w.]*_\d+"', "", svg)
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
