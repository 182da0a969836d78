"""One HTML page of figures and a film, to look at what was trained.

The page is one file: styles, charts, pictures and film are in it, and nothing is loaded from elsewhere. It follows the
reader's light or dark theme. The first half of this module makes the parts of any page; each function returns HTML, and
escapes the text it is given. The second half makes the report of a policy trained by behavioural cloning.
"""

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import jax
import matplotlib
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vpt_jax.actions import (
    BUTTONS,
    CAMERA,
    PITCH,
    YAW,
    JointAction,
    factored_from_joint,
)
from vpt_jax.data.streams import Stream
from vpt_jax.evaluation import COMMON_SHARE
from vpt_jax.models.heads import most_probable
from vpt_jax.models.policy import Policy
from vpt_jax.models.transformer import Memory
from vpt_jax.training.metrics_log import read_metrics
from vpt_jax.video import FRAME_RATE, Frame, VideoWriter, draw_action

# Name: (on light ground, on dark ground). Charts are drawn in the light colours, each of which then becomes a variable.
# As text, all have a contrast of 4.5 or more with the ground.
COLOURS = {
    "ground": ("#fcfcfb", "#14171b"),
    "ink": ("#1c2024", "#e6e8ea"),
    "muted": ("#5d666f", "#9aa4ae"),
    "rule": ("#d9dde1", "#343b43"),
    "bar": ("#cfe3f5", "#1f4263"),
    "policy": ("#0068a8", "#5cb8f0"),
    "train": ("#007758", "#35c298"),
    "repeat": ("#9b3a77", "#e59cc7"),
    "marginal": ("#b04a00", "#f29450"),
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
td { width: 7rem; }
td.share { background: linear-gradient(to right, var(--bar) calc(100% * var(--share)), transparent 0)
  0 50% / 100% 1.5rem no-repeat; }
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
    """A whole HTML document of some sections, one below the other."""
    light, dark = (" ".join(f"--{name}: {pair[theme]};" for name, pair in COLOURS.items()) for theme in (0, 1))
    style = _STYLE.replace("LIGHT", light).replace("DARK", dark)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    """A heading and what stands below it."""
    return f"<section>\n<h2>{escape(heading)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    """Explaining text."""
    return f"<p>{escape(text)}</p>"


def facts_list(facts: Mapping[str, str]) -> str:
    """Labels with their values."""
    return "<dl>" + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items()) + "</dl>"


def table(columns: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """A table; the first cell of a row is its heading. Strings stand as they are, a float is a share, with a bar."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{escape(str(name))}</th>{"".join(map(_cell, cells))}</tr>' for name, *cells in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    return f'<td class="share" style="--share: {value:.4f}">{value:.3f}</td>'


def grid(parts: Sequence[str], column: int = 30) -> str:
    """Parts side by side, as many as fit into the window if a column takes at least so many times the font size."""
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
    """A line of a chart; its label and last value stand at its right end. An empty label: no such text."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    colour: str  # a name from COLOURS
    style: str = "-"
    width: float = 1.8
    alpha: float = 1.0


def curve(title: str, lines: Sequence[Line], x_label: str, y_label: str, y_max: float | None = None) -> str:
    """A line chart from x = 0 on, as inline SVG: its colours and font are those of the page. `y_max` cuts its top."""
    svg, no_metadata = io.StringIO(), dict.fromkeys(("Date", "Format", "Type", "Creator"))
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": title, "font.size": 9}):
        figure = Figure(figsize=(5.2, 3), layout="constrained")
        axes = figure.subplots()
        for line in lines:
            _draw_line(axes, line)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_ylim(top=y_max)
        _style_axes(axes)
        _label_ends(axes, [line for line in lines if line.label])
        figure.savefig(svg, format="svg", transparent=True, metadata=no_metadata)
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{_inline(svg.getvalue(), title)}</figure>'


def _draw_line(axes: Axes, line: Line) -> None:
    colour = COLOURS[line.colour][0]
    marker = "o" if len(line.x) == 1 else None  # a line of one point cannot be seen
    axes.plot(line.x, line.y, line.style, color=colour, linewidth=line.width, alpha=line.alpha, marker=marker)


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


def _label_ends(axes: Axes, lines: Sequence[Line], gap: float = 0.08) -> None:
    """Writes the labels beside the right ends, moved apart where they would overlap (`gap`: share of the height)."""
    low, high = axes.get_ylim()
    lines = sorted(lines, key=lambda line: line.y[-1])
    wanted = np.clip([(line.y[-1] - low) / (high - low) for line in lines], 0, 1)
    stacked = gap * np.arange(len(lines))
    for line, y in zip(lines, np.maximum.accumulate(wanted - stacked) + stacked, strict=True):
        text = f"{line.label} {line.y[-1]:.2f}"
        axes.text(1.02, y, text, color=COLOURS[line.colour][0], va="center", transform=axes.transAxes)


def _inline(svg: str, title: str) -> str:
    """The SVG as part of a page: without what only a file of its own needs, its colours those of the page's theme."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r' (?:xmlns(?::\w+)?|version)="[^"]*"| id="[\w.]*_\d+"', "", svg)
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)


# The report of a policy

FILM_SECONDS = 25
FILM_CRF = 28  # about 100 kB a second, for the film is part of the page
EXAMPLES = 9
PICTURE_WIDTH = 512  # pixels, about: frames are enlarged by a whole number
_CHUNK = 64  # frames the policy is fed at a time, for the film
_SMOOTHING = 25  # the smoothed loss is the mean over one part in so many of the curve
_PREDICTORS = {"policy": "Policy", "repeat": "Repeat the last action", "marginal": "Marginal distribution"}
_SHARES = {  # metric: its name, its unit
    "f1/mean": ("Mean F1 of the keys", "F1"),
    "camera_accuracy": ("Camera accuracy", "share of frames"),
    "camera_accuracy_moving": ("Camera accuracy while it moves", "share of frames that move"),
}

Action = tuple[UInt8[np.ndarray, "20"], Float[np.ndarray, "2"]]  # buttons; degrees of pitch and yaw


def write_report(
    workdir: Path,
    *,
    facts: Mapping[str, str],
    baselines: Mapping[str, Mapping[str, float]],
    policy: Policy,
    params: Any,
    train: Stream,
    valid: Stream,
) -> tuple[Path, Path]:
    """Writes `report.html` and `film.mp4` into the work directory of a run, and returns their paths.

    Args:
      workdir: holds the run's `metrics.jsonl`; ValueError if that has no evaluation.
      facts: what else to say about the run, at the top.
      baselines: of `evaluation.baseline_metrics`.
      policy, params: what the film shows.
      train: gives the example frames.
      valid: gives the film, of its episode with most frames to show, and how often each key is held.
    """
    log = read_metrics(workdir)
    step, evaluated = _last_evaluation(log, workdir)
    figures = {"policy": evaluated, **baselines}
    report, play = workdir / "report.html", workdir / "film.mp4"
    episode = int(np.argmax(valid.kept_lengths))
    _write_film(play, held_out_play(policy, params, valid, episode, FILM_SECONDS * FRAME_RATE))
    sections = [
        facts_list(facts),
        _headline_section(figures, step),
        _curves_section(log, figures),
        _film_section(play, valid, episode),
        _keys_section(figures, valid),
        _examples_section(train),
    ]
    report.write_text(page(f"Behavioural cloning: {workdir.resolve().name}", sections), encoding="utf-8")
    return report, play


def _last_evaluation(log: Sequence[Mapping[str, float]], workdir: Path) -> tuple[int, dict[str, float]]:
    evaluations = [line for line in log if "valid/nll" in line]
    if not evaluations:
        raise ValueError(f"{workdir / 'metrics.jsonl'} holds no evaluation (valid/nll): let the run evaluate once")
    last = evaluations[-1]
    return int(last["step"]), {name.removeprefix("valid/"): value for name, value in last.items()}


def _headline_section(figures: Mapping[str, Mapping[str, float]], step: int) -> str:
    """The policy beside its baselines."""
    trivial = figures["marginal"]["nll"]
    by_predictor = [figures[name] for name in _PREDICTORS]
    rows: list[Sequence[str | float]] = [
        ["NLL (nats per frame)", *(f"{of['nll']:.3f}" for of in by_predictor)],
        ["NLL below the marginal distribution's", *(f"{1 - of['nll'] / trivial:.1%}" for of in by_predictor)],
    ]
    for metric, (title, _) in _SHARES.items():
        rows.append([title, *(of[metric] for of in by_predictor)])
    explained = (
        f"After step {step:,}, on {int(figures['policy']['frames']):,} frames of held-out play. NLL, the negative "
        "log-likelihood of the recorded action, is better lower; F1 and accuracy are better higher. The policy sees "
        "the recorded frames up to now and names the action that the player takes next. The baselines see no frames; "
        "but the first of them knows the action before, which the policy does not. The camera is right where both of "
        "its angles fall in the recorded bins. The mean F1 is over the keys held in more than "
        f"{COMMON_SHARE:.0%} of the frames."
    )
    comparison = table(["", *_PREDICTORS.values()], rows)
    return section("How well it predicts held-out play", comparison, paragraph(explained))


def _keys_section(figures: Mapping[str, Mapping[str, float]], valid: Stream) -> str:
    """F1 of each key that occurs in the held-out play; the most frequent first."""
    episodes = range(len(valid.index.names))
    held = np.concatenate([valid.actions(episode)[0][valid.scored(episode)] for episode in episodes]).mean(0)
    rows = [
        [BUTTONS[i], *(figures[name][f"f1/{BUTTONS[i]}"] for name in _PREDICTORS), f"{held[i]:.1%}"]
        for i in np.argsort(-held, kind="stable")
        if f"f1/{BUTTONS[i]}" in figures["repeat"]
    ]
    return section("F1 of each key", table(["Key", *_PREDICTORS.values(), "Held, share of frames"], rows))


def _curves_section(log: Sequence[Mapping[str, float]], figures: Mapping[str, Mapping[str, float]]) -> str:
    """Loss and accuracies over the steps, with the baselines as horizontal lines."""
    steps, loss = _series(log, "train/loss")
    losses = [
        Line("", steps, loss, "train", width=0.6, alpha=0.45),
        Line("training", steps, _smoothed(loss), "train"),
        *_validation_lines(log, figures, "nll"),
    ]
    top = 1.1 * max(of["nll"] for of in figures.values())
    charts = [curve("Loss", losses, "step", "nats per frame", y_max=top)]
    for metric, (title, unit) in _SHARES.items():
        charts.append(curve(title, _validation_lines(log, figures, metric), "step", unit))
    explained = (
        "Of the training loss, the thin line is single steps and the thick one their running mean; its steep start may "
        "lie above the chart. All else is of held-out play."
    )
    return section("Learning curves", grid(charts), paragraph(explained))


def _validation_lines(
    log: Sequence[Mapping[str, float]], figures: Mapping[str, Mapping[str, float]], metric: str
) -> list[Line]:
    steps, values = _series(log, f"valid/{metric}")
    ends = [0, max(line["step"] for line in log)]
    marginal, repeat = (figures[name][metric] for name in ("marginal", "repeat"))
    return [
        Line("marginal", ends, [marginal, marginal], "marginal", "--", 1.3),
        Line("repeat", ends, [repeat, repeat], "repeat", "-.", 1.3),
        Line("held-out", steps, values, "policy"),
    ]


def _series(log: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric."""
    lines = [line for line in log if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def _smoothed(values: Sequence[float]) -> list[float]:
    """The mean over a window around each value; at the ends, over the part of the window that there is."""
    window = np.ones(2 * (len(values) // _SMOOTHING // 2) + 1)
    return list(np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same"))


def _examples_section(train: Stream) -> str:
    """Frames from all over the training data."""
    spread = Stream(replace(train.settings, batch=EXAMPLES, length=1))  # row i starts at i / EXAMPLES of the epoch
    batch = spread.read(0, range(EXAMPLES))
    pictures = [
        picture(draw_large(batch.frames[row, 0], action), describe(*action))
        for row, action in enumerate(zip(batch.buttons[:, 0], batch.camera[:, 0], strict=True))
        if batch.valid[row, 0]
    ]
    explained = "Frames as the policy sees them, enlarged, each with the action its player took next."
    return section("What it learned from", paragraph(explained), grid(pictures, column=20))


def describe(buttons: UInt8[np.ndarray, "20"], camera: Float[np.ndarray, "2"]) -> str:
    """An action in words: `forward, jump; camera 2.5° right, 0.3° up`."""
    keys = ", ".join(BUTTONS[i] for i in np.flatnonzero(buttons)) or "no key"
    turns = [
        f"{abs(degrees):.1f}° {names[int(degrees < 0)]}"
        for degrees, names in ((camera[YAW], ("right", "left")), (camera[PITCH], ("down", "up")))
        if abs(degrees) >= 0.05
    ]
    return f"{keys}; camera {', '.join(turns) or 'still'}"


def draw_large(frame: Frame, action: Action, predicted: Action | None = None) -> Frame:
    """The frame enlarged, and above it the action's keys and, if given, those of the predicted one; even in size."""
    factor = max(1, round(PICTURE_WIDTH / frame.shape[1]))
    large = frame.repeat(factor, 0).repeat(factor, 1)
    rows = 1 if predicted is None else 2
    panel = np.zeros((2 * math.ceil(rows * large.shape[1] / 40), large.shape[1], 3), np.uint8)
    return np.concatenate([draw_action(panel, *action, predicted=predicted), large])


def _film_section(path: Path, valid: Stream, episode: int) -> str:
    explained = (
        "Above the picture: the action that was recorded, and the one that the policy holds most probable, given the "
        "recorded frames up to this one. A lit key is held; the arrow shows where the camera turns, and how far."
    )
    if valid.settings.nulls == "drop":
        explained += " Frames in which the player does nothing are left out, as in training."
    caption = f"Held-out episode {valid.index.names[episode]}, {FRAME_RATE} frames per second"
    return section("Held-out play: predicted against recorded", grid([film(path, caption), paragraph(explained)]))


def _write_film(path: Path, play: Iterator[tuple[Frame, Action, Action]]) -> None:
    first = draw_large(*next(play))
    height, width, _ = first.shape
    with VideoWriter(path, height, width, crf=FILM_CRF) as video:
        video.write(first)
        for moment in play:
            video.write(draw_large(*moment))


def held_out_play(
    policy: Policy, params: Any, stream: Stream, episode: int, limit: int
) -> Iterator[tuple[Frame, Action, Action]]:
    """The first `limit` frames that the stream shows of an episode, each with its recorded and its predicted action.

    The policy reads the recorded frames, its memory carried on; the prediction is each head's most probable choice.
    """
    stream = Stream(replace(stream.settings, batch=1, length=_CHUNK, shuffle=False))
    start = int(stream.kept_lengths[:episode].sum())
    stop = start + min(limit, int(stream.kept_lengths[episode]))
    memory = policy.initial_memory(1)
    for step in range(start // _CHUNK, -(-stop // _CHUNK)):
        batch = stream.read(step, [0])  # may begin in the episode before: `first` then clears the memory
        predicted, memory = _predict(policy, params, batch.frames, batch.first, memory)
        buttons, bins = factored_from_joint(JointAction(*(np.asarray(choice[0]) for choice in predicted)))
        for i in range(max(start - step * _CHUNK, 0), min(stop - step * _CHUNK, _CHUNK)):
            recorded = batch.buttons[0, i], batch.camera[0, i]
            yield batch.frames[0, i], recorded, (buttons[i], CAMERA.to_degrees(bins[i]))


@partial(jax.jit, static_argnums=0)
def _predict(
    policy: Policy, params: Any, frames: UInt8[Array, "b t h w 3"], first: Bool[Array, "b t"], memory: Memory
) -> tuple[JointAction, Memory]:
    output = policy.apply({"params": params}, frames, first, memory)
    return most_probable(output.logits), output.memory
