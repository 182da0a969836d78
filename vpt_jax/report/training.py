"""Report of a training run: a page of metrics and curves, and a film of held-out play, predicted against recorded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions.minerl import PITCH, YAW
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.mixture import MixtureStream, split_rows
from vpt_jax.data.streams import Stream
from vpt_jax.evaluation.metrics import COMMON_SHARE, group_name
from vpt_jax.evaluation.resampling import Figure
from vpt_jax.report.checkpoint_play import play_sections
from vpt_jax.report.films import FilmFrame, draw_large, write_film
from vpt_jax.report.page import Line, curve, facts_list, film, grid, page, paragraph, picture, section, table
from vpt_jax.training.metrics_log import read_metrics
from vpt_jax.training.objective import Objective
from vpt_jax.training.stages import STAGES
from vpt_jax.video import FRAME_RATE

FILM_SECONDS = 25
EXAMPLES = 9
_CHUNK = 64  # frames per call of the model, for the film
_SMOOTHING = 25  # the window of the smoothed loss is this fraction (1/25) of the curve
_PREDICTORS = {
    "model": "Model",
    "marginal": "Marginal distribution",
    "released": "All released",
    "repeat": "Repeat the last action",
}
_SHARES = {  # metric: its name, its unit
    "f1/mean": ("Mean F1 of the keys", "F1"),
    "camera_accuracy": ("Camera accuracy", "share of frames"),
    "camera_accuracy_moving": ("Camera accuracy while it moves", "share of frames that move"),
}


class HeldOut(NamedTuple):
    """Held-out data of a run: a validation set, or the test data."""

    name: str  # as in `metrics.group_name`; "": the only one
    stream: Stream
    baselines: Mapping[str, Mapping[str, float]]  # metrics by baseline; the model is compared with the first
    split: str = "valid"  # or "test"

    @property
    def group(self) -> str:
        """Name of its metrics in `metrics.jsonl`."""
        return "test" if self.split == "test" else group_name("valid", self.name)

    def heading(self, text: str) -> str:
        """Heading of a section about this set."""
        return f"{text}: {self.name or self.split}" if self.name or self.split != "valid" else text


def write_report(
    workdir: Path,
    *,
    stage: str,
    facts: Mapping[str, str],
    objective: Objective,
    params: Any,
    train: Stream | MixtureStream,
    held_out: Sequence[HeldOut],
    test: HeldOut | None = None,
    copycat: Mapping[str, Figure] | None = None,
) -> tuple[Path, Path]:
    """Write `report.html` and `film.mp4` into the work directory of a run, and return their paths.

    Args:
      workdir: holds the run's `metrics.jsonl`; ValueError if that has no evaluation.
      stage: name in `STAGES`.
      facts: further labels and values for the top of the page.
      objective, params: the model whose predictions the film shows.
      train: source of the example frames.
      held_out: validation sets; the film is of the first, of its episode with the most kept frames.
      test: test data; None: the run has none.
      copycat: losses on the first validation set by input (`copycat_losses`); None: not of this model.
    """
    log = read_metrics(workdir)
    report, film_path = workdir / "report.html", workdir / "film.mp4"
    tested = [test] if test else []
    evaluations = [_last_evaluation(log, workdir, each) for each in held_out]
    valid = held_out[0].stream
    episode = int(np.argmax(valid.kept_lengths))
    write_film(film_path, held_out_play(objective, params, valid, episode, FILM_SECONDS * FRAME_RATE))
    description = STAGES[stage].input_description
    headlines, curves, keys = [], [], []
    for each in tested:
        step, evaluated = _last_evaluation(log, workdir, each)
        headlines.append(_headline_section(each, {"model": evaluated, **each.baselines}, step, description))
    for each, (step, evaluated) in zip(held_out, evaluations, strict=True):
        figures = {"model": evaluated, **each.baselines}
        headlines.append(_headline_section(each, figures, step, description))
        curves.append(_curves_section(each, log, figures))
        keys.append(_keys_section(each, figures))
    sections = [
        facts_list(facts), *headlines, *curves, *play_sections(workdir),
        *([_copycat_section(held_out[0], copycat)] if copycat else []),
        _film_section(film_path, held_out[0], episode), *keys, _examples_section(train),
    ]  # fmt: skip
    report.write_text(page(f"{STAGES[stage].title}: {workdir.resolve().name}", sections), encoding="utf-8")
    return report, film_path


def _last_evaluation(
    log: Sequence[Mapping[str, float]], workdir: Path, held_out: HeldOut
) -> tuple[int, dict[str, float]]:
    group = held_out.group
    evaluations = [line for line in log if f"{group}/nll" in line]
    if not evaluations:
        raise ValueError(f"{workdir / 'metrics.jsonl'} holds no evaluation ({group}/nll): let the run evaluate once")
    last = evaluations[-1]
    return int(last["step"]), {name.removeprefix(f"{group}/"): value for name, value in last.items()}


def _headline_section(
    held_out: HeldOut, figures: Mapping[str, Mapping[str, float]], step: int, input_description: str
) -> str:
    """Metrics of the model and of its baselines."""
    _, trivial, *_ = figures
    by_predictor = list(figures.values())
    rows: list[Sequence[str | float]] = [
        ["NLL (nats per frame)", *(f"{metrics['nll']:.3f}" for metrics in by_predictor)],
        [
            "NLL below " + _PREDICTORS[trivial].lower(),
            *(f"{1 - metrics['nll'] / figures[trivial]['nll']:.1%}" for metrics in by_predictor),
        ],
    ]
    shares = {metric: title for metric, (title, _) in _SHARES.items() if metric in figures["model"]}
    rows += [[title, *(metrics[metric] for metrics in by_predictor)] for metric, title in shares.items()]
    text = (
        f"After step {step:,}, on {int(figures['model']['frames']):,} frames of held-out play, of the split "
        f"`{held_out.split}`. It is the last evaluation: no loss chose it. NLL, the negative log-likelihood of the "
        "recorded action, is better lower; F1 and accuracy are better higher. "
        f"{input_description} The baselines do not use frames; but the one that repeats has the previous action as "
        "input, which the model has not. The camera is correct where all of its axes fall in the recorded bins. The "
        f"mean F1 is over the keys held in more than {COMMON_SHARE:.0%} of the frames."
    )
    comparison = table(["", *(_PREDICTORS[name] for name in figures)], rows)
    return section(held_out.heading("Prediction of held-out play"), comparison, paragraph(text))


def _copycat_section(held_out: HeldOut, losses: Mapping[str, Figure]) -> str:
    """Losses with the picture and with the history blanked."""
    rows: list[Sequence[str | float]] = [
        [name.capitalize(), f"{figure.value:.3f}", f"{figure.low:.3f} to {figure.high:.3f}"]
        for name, figure in losses.items()
    ]
    rows += [[_PREDICTORS[name], f"{metrics['nll']:.3f}", ""] for name, metrics in held_out.baselines.items()]
    text = (
        "Held-out loss of the last step, with every frame black, and with every frame as the first of an episode; of a "
        "policy that reads text, also without it. A "
        "policy that repeats the actions that it infers from earlier frames predicts well and plays badly (the copycat "
        "problem, Wen et al. 2020). The 95% intervals are over stretches of play. The one that repeats has the true "
        "previous action as input."
    )
    table_of_losses = table(["Input", "NLL on the split `valid`, nats per frame", "95% interval"], rows)
    return section(held_out.heading("Copycat check"), table_of_losses, paragraph(text))


def _keys_section(held_out: HeldOut, figures: Mapping[str, Mapping[str, float]]) -> str:
    """F1 of each key that occurs in the held-out play; the most frequent first."""
    valid = held_out.stream
    episodes = range(len(valid.index.names))
    held = np.concatenate([valid.actions(episode)[0][valid.scored(episode)] for episode in episodes]).mean(0)
    keys = valid.space.keys
    rows = [
        [keys[i], *(metrics.get(f"f1/{keys[i]}", 0.0) for metrics in figures.values()), f"{held[i]:.1%}"]
        for i in np.argsort(-held, kind="stable")
        if f"f1/{keys[i]}" in figures["repeat"]
    ]
    columns = ["Key", *(_PREDICTORS[name] for name in figures), "Held, share of frames"]
    return section(held_out.heading("F1 of each key"), table(columns, rows))


def _curves_section(
    held_out: HeldOut, log: Sequence[Mapping[str, float]], figures: Mapping[str, Mapping[str, float]]
) -> str:
    """Loss and accuracies over the steps, with the baselines as horizontal lines."""
    group = held_out.group
    steps, loss = series(log, "train/loss")
    losses = [
        Line("", steps, loss, "train", width=0.6, alpha=0.45),
        Line("training", steps, smoothed(loss), "train"),
        *_validation_lines(log, figures, group, "nll"),
    ]
    top = 1.1 * max(metrics["nll"] for metrics in figures.values())
    charts = [curve("Loss", losses, "step", "nats per frame", y_max=top)]
    for metric, (title, unit) in _SHARES.items():
        if metric in figures["model"]:  # a space without axes has no camera
            charts.append(curve(title, _validation_lines(log, figures, group, metric), "step", unit))
    text = (
        "Of the training loss, the thin line is single steps and the thick one their running mean; its steep start may "
        "lie above the chart. All other lines are of held-out play, of the split `valid`."
    )
    return section(held_out.heading("Learning curves"), grid(charts), paragraph(text))


def _validation_lines(
    log: Sequence[Mapping[str, float]], figures: Mapping[str, Mapping[str, float]], group: str, metric: str
) -> list[Line]:
    steps, values = series(log, f"{group}/{metric}")
    ends = [0, max(line["step"] for line in log)]
    _, trivial, other = figures
    return [
        Line(trivial, ends, [figures[trivial][metric]] * 2, "trivial", "--", 1.3),
        Line(other, ends, [figures[other][metric]] * 2, "repeat", "-.", 1.3),
        Line("held-out", steps, values, "model"),
    ]


def series(log: Sequence[Mapping[str, float]], name: str) -> tuple[list[float], list[float]]:
    """Steps and values of a metric in a log."""
    lines = [line for line in log if name in line]
    return [line["step"] for line in lines], [line[name] for line in lines]


def smoothed(values: Sequence[float]) -> list[float]:
    """Moving average over a centred window, truncated at both ends."""
    if not len(values):
        return []
    window = np.ones(2 * (len(values) // _SMOOTHING // 2) + 1)
    return list(np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same"))


def _examples_section(train: Stream | MixtureStream) -> str:
    """Evenly spaced frames of the training data; of a mixture, in proportion to the shares of its datasets."""
    counts = split_rows([part.share for part in train.parts], max(EXAMPLES, len(train.parts)))
    pictures = [
        example for part, count in zip(train.parts, counts, strict=True) for example in _examples(part.stream, count)
    ]
    text = "Input frames of the model, enlarged, each with the next action of its player."
    return section("Training examples", paragraph(text), grid(pictures, column=20))


def _examples(stream: Stream, count: int) -> list[str]:
    # Row i starts at i / count of the epoch.
    batch, space = Stream(replace(stream.settings, batch=count, length=1)).read(0, range(count)), stream.space
    return [
        picture(draw_large(FilmFrame(batch.frames[row, 0], action, space=space)), describe(space, *action))
        for row, action in enumerate(zip(batch.buttons[:, 0], batch.camera[:, 0], strict=True))
        if batch.valid[row, 0]
    ]


def describe(space: ActionSpace, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> str:
    """Description of an action: `forward, jump; camera 2.5° right, 0.3° up`; of other axes, with their units."""
    if tuple(axis.name for axis in space.axes) != ("pitch", "yaw"):
        return space.describe(buttons, camera)
    keys = ", ".join(space.keys[i] for i in np.flatnonzero(buttons)) or "no key"
    turns = [
        f"{abs(degrees):.1f}° {names[int(degrees < 0)]}"
        for degrees, names in ((camera[YAW], ("right", "left")), (camera[PITCH], ("down", "up")))
        if abs(degrees) >= 0.05
    ]
    return f"{keys}; camera {', '.join(turns) or 'still'}"


def _film_section(path: Path, held_out: HeldOut, episode: int) -> str:
    valid = held_out.stream
    text = (
        "Above the picture: the recorded action, and the most probable one by the model. A lit key is held; the arrow "
        "shows the direction and angle of the camera movement."
    )
    if valid.num_frames < valid.lengths.sum():
        text += " Frames with null actions are dropped, as in training."
    caption = f"{held_out.heading('Held-out episode')} {valid.index.names[episode]}, {FRAME_RATE} frames per second"
    return section("Held-out play: predicted against recorded", grid([film(path, caption), paragraph(text)]))


def held_out_play(objective: Objective, params: Any, stream: Stream, episode: int, limit: int) -> Iterator[FilmFrame]:
    """The first `limit` kept frames of an episode, each with its recorded and its predicted action.

    The model processes the recorded frames in chunks, and its memory (KV cache) is carried from chunk to chunk. The
    prediction is the most probable action of each head.
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
            yield FilmFrame(batch.frames[0, i], recorded, (buttons[i], camera[i]), space=stream.space)
