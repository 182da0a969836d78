"""The report of a training run: a page of figures and a film of held-out play, predicted against recorded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions import BUTTONS, PITCH, YAW
from vpt_jax.data.streams import Stream
from vpt_jax.evaluation.metrics import COMMON_SHARE
from vpt_jax.report.films import Moment, draw_large, write_film
from vpt_jax.report.page import Line, curve, facts_list, film, grid, page, paragraph, picture, section, table
from vpt_jax.training.metrics_log import read_metrics
from vpt_jax.training.objective import Objective
from vpt_jax.video import FRAME_RATE

FILM_SECONDS = 25
EXAMPLES = 9
_CHUNK = 64  # frames the model is fed at a time, for the film
_SMOOTHING = 25  # the smoothed loss is the mean over one part in so many of the curve
_PREDICTORS = {
    "model": "Model",
    "marginal": "Marginal distribution",
    "released": "All released",
    "repeat": "Repeat the last action",
}
_TITLES = {"policy": "Behavioural cloning", "idm": "Inverse dynamics"}
_WHAT_IT_SEES = {
    "policy": "The policy sees the recorded frames up to now and names the action that the player takes next.",
    "idm": "The model sees the frames before and after, and names what was done in between.",
}
_SHARES = {  # metric: its name, its unit
    "f1/mean": ("Mean F1 of the keys", "F1"),
    "camera_accuracy": ("Camera accuracy", "share of frames"),
    "camera_accuracy_moving": ("Camera accuracy while it moves", "share of frames that move"),
}


def write_report(
    workdir: Path,
    *,
    stage: str,
    facts: Mapping[str, str],
    baselines: Mapping[str, Mapping[str, float]],
    objective: Objective,
    params: Any,
    train: Stream,
    valid: Stream,
) -> tuple[Path, Path]:
    """Writes `report.html` and `film.mp4` into the work directory of a run, and returns their paths.

    Args:
      workdir: holds the run's `metrics.jsonl`; ValueError if that has no evaluation.
      stage: "policy" or "idm", what was trained.
      facts: what else to say about the run, at the top.
      baselines: their metrics, from `baselines`; the model is measured against the first.
      objective, params: what the film shows.
      train: gives the example frames.
      valid: gives the film, of its episode with most frames to show, and how often each key is held.
    """
    log = read_metrics(workdir)
    step, evaluated = _last_evaluation(log, workdir)
    figures = {"model": evaluated, **baselines}
    report, play = workdir / "report.html", workdir / "film.mp4"
    episode = int(np.argmax(valid.kept_lengths))
    write_film(play, held_out_play(objective, params, valid, episode, FILM_SECONDS * FRAME_RATE))
    sections = [
        facts_list(facts),
        _headline_section(figures, step, _WHAT_IT_SEES[stage]),
        _curves_section(log, figures),
        _film_section(play, valid, episode),
        _keys_section(figures, valid),
        _examples_section(train),
    ]
    report.write_text(page(f"{_TITLES[stage]}: {workdir.resolve().name}", sections), encoding="utf-8")
    return report, play


def _last_evaluation(log: Sequence[Mapping[str, float]], workdir: Path) -> tuple[int, dict[str, float]]:
    evaluations = [line for line in log if "valid/nll" in line]
    if not evaluations:
        raise ValueError(f"{workdir / 'metrics.jsonl'} holds no evaluation (valid/nll): let the run evaluate once")
    last = evaluations[-1]
    return int(last["step"]), {name.removeprefix("valid/"): value for name, value in last.items()}


def _headline_section(figures: Mapping[str, Mapping[str, float]], step: int, what_it_sees: str) -> str:
    """The model beside its baselines."""
    _, trivial, *_ = figures
    by_predictor = list(figures.values())
    rows: list[Sequence[str | float]] = [
        ["NLL (nats per frame)", *(f"{of['nll']:.3f}" for of in by_predictor)],
        [
            "NLL below " + _PREDICTORS[trivial].lower(),
            *(f"{1 - of['nll'] / figures[trivial]['nll']:.1%}" for of in by_predictor),
        ],
    ]
    for metric, (title, _) in _SHARES.items():
        rows.append([title, *(of[metric] for of in by_predictor)])
    explained = (
        f"After step {step:,}, on {int(figures['model']['frames']):,} frames of held-out play. NLL, the negative "
        f"log-likelihood of the recorded action, is better lower; F1 and accuracy are better higher. {what_it_sees} "
        "The baselines see no frames; but the one that repeats knows the action before, which the model does not. The "
        "camera is right where both of "
        "its angles fall in the recorded bins. The mean F1 is over the keys held in more than "
        f"{COMMON_SHARE:.0%} of the frames."
    )
    comparison = table(["", *(_PREDICTORS[name] for name in figures)], rows)
    return section("How well it predicts held-out play", comparison, paragraph(explained))


def _keys_section(figures: Mapping[str, Mapping[str, float]], valid: Stream) -> str:
    """F1 of each key that occurs in the held-out play; the most frequent first."""
    episodes = range(len(valid.index.names))
    held = np.concatenate([valid.actions(episode)[0][valid.scored(episode)] for episode in episodes]).mean(0)
    rows = [
        [BUTTONS[i], *(of.get(f"f1/{BUTTONS[i]}", 0.0) for of in figures.values()), f"{held[i]:.1%}"]
        for i in np.argsort(-held, kind="stable")
        if f"f1/{BUTTONS[i]}" in figures["repeat"]
    ]
    return section(
        "F1 of each key", table(["Key", *(_PREDICTORS[name] for name in figures), "Held, share of frames"], rows)
    )


def _curves_section(log: Sequence[Mapping[str, float]], figures: Mapping[str, Mapping[str, float]]) -> str:
    """Loss and accuracies over the steps, with the baselines as horizontal lines."""
    steps, loss = series(log, "train/loss")
    losses = [
        Line("", steps, loss, "train", width=0.6, alpha=0.45),
        Line("training", steps, smoothed(loss), "train"),
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
    steps, values = series(log, f"valid/{metric}")
    ends = [0, max(line["step"] for line in log)]
    _, trivial, other = figures
    return [
        Line(trivial, ends, [figures[trivial][metric]] * 2, "trivial", "--", 1.3),
        Line(other, ends, [figures[other][metric]] * 2, "repeat", "-.", 1.3),
        Line("held-out", steps, values, "model"),
    ]


def series(log: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric."""
    lines = [line for line in log if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def smoothed(values: Sequence[float]) -> list[float]:
    """The mean over a window around each value; at the ends, over the part of the window that there is."""
    if not len(values):
        return []
    window = np.ones(2 * (len(values) // _SMOOTHING // 2) + 1)
    return list(np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same"))


def _examples_section(train: Stream) -> str:
    """Frames from all over the training data."""
    spread = Stream(replace(train.settings, batch=EXAMPLES, length=1))  # row i starts at i / EXAMPLES of the epoch
    batch = spread.read(0, range(EXAMPLES))
    pictures = [
        picture(draw_large(Moment(batch.frames[row, 0], action)), describe(*action))
        for row, action in enumerate(zip(batch.buttons[:, 0], batch.camera[:, 0], strict=True))
        if batch.valid[row, 0]
    ]
    explained = "Frames as the model sees them, enlarged, each with the action its player took next."
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


def _film_section(path: Path, valid: Stream, episode: int) -> str:
    explained = (
        "Above the picture: the action that was recorded, and the one that the model holds most probable. A lit key is "
        "held; the arrow shows where the camera turns, and how far."
    )
    if valid.settings.nulls == "drop":
        explained += " Frames in which the player does nothing are left out, as in training."
    caption = f"Held-out episode {valid.index.names[episode]}, {FRAME_RATE} frames per second"
    return section("Held-out play: predicted against recorded", grid([film(path, caption), paragraph(explained)]))


def held_out_play(objective: Objective, params: Any, stream: Stream, episode: int, limit: int) -> Iterator[Moment]:
    """The first `limit` frames that the stream shows of an episode, each with its recorded and its predicted action.

    The model reads the recorded frames, its memory carried on; the prediction is each head's most probable choice.
    """
    predict = jax.jit(objective.predict)
    memory = objective.initial_memory(1)
    stop = min(limit, int(stream.kept_lengths[episode]))
    for start in range(0, stop, _CHUNK):
        batch = stream.read_episode(episode, start, _CHUNK)
        predicted, memory = predict(params, memory, batch)
        buttons, camera = (np.asarray(choice[0]) for choice in (predicted.buttons, predicted.camera))
        for i in range(min(stop - start, _CHUNK)):
            recorded = batch.buttons[0, i], batch.camera[0, i]
            yield Moment(batch.frames[0, i], recorded, (buttons[i], camera[i]))
