"""Report of the whole VPT loop: compares policies trained on predicted (pseudo-) labels and on true labels.

Every figure is of the held-out split `test`, which selects nothing: a policy's best step is the one with the lowest
loss on the split `valid`, and inverse dynamics models are evaluated at their last step, whose checkpoint labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from demo.films import large_play
from vpt_jax.actions.minerl import BUTTONS, CAMERA, MINERL
from vpt_jax.data.dataset import EpisodeIndex, load_index
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.evaluation.baselines import label_baselines, policy_baselines
from vpt_jax.evaluation.metrics import (
    COMMON_SHARE,
    Totals,
    compute_metrics,
    confidence_intervals,
    label_totals,
    sum_totals,
)
from vpt_jax.report.experiments import Verdict, verdict_lines, verdict_table
from vpt_jax.report.films import FilmFrame, write_animation, write_film
from vpt_jax.report.page import Line, curve, facts_list, film, grid, heatmap, page, paragraph, section, table
from vpt_jax.training.metrics_log import best_evaluation, read_metrics
from vpt_jax.video import FRAME_RATE

ANIMATION_SECONDS = 8  # of the film as an animated picture
Figures = Mapping[str, float]
_TITLES = {
    "key_accuracy": "Keypress accuracy: correct predictions, all 20 keys of all frames",
    "key_exact": "Keypress accuracy: frames with all 20 keys right",
    "f1/mean": f"Mean F1 of keys held in more than {COMMON_SHARE:.0%} of frames",
    "camera_accuracy/pitch": "Camera bin right, pitch",
    "camera_accuracy/yaw": "Camera bin right, yaw",
    "mouse_r2/pitch": "Mouse R2, pitch, of the likeliest bin",
    "mouse_r2/yaw": "Mouse R2, yaw, of the likeliest bin",
}
_MEAN_ANGLE_TITLES = {
    "mouse_r2/pitch": "Mouse R2, pitch, of the mean angle",
    "mouse_r2/yaw": "Mouse R2, yaw, of the mean angle",
}
_CURVE_LABELS = {"f1/mean": "F1", "mouse_r2/pitch": "pitch", "mouse_r2/yaw": "yaw"}
_NAMES = {"released": "All released, no movement", "repeat": "Previous action", "marginal": "Most frequent action"}


class Runs(NamedTuple):
    """Paths of the runs, datasets and recordings that are compared."""

    idms: Mapping[float, Path]  # work directory by minutes; the last one labelled
    policies: Mapping[str, tuple[Path, Path, float]]  # work directory, dataset and minutes (0: all of it) by name
    held_out: Path  # dataset with the true labels, split `test`
    held_out_labels: Path  # predicted labels of the same episodes, the most probable
    held_out_means: Path  # the same with the camera degrees' mean under the predicted distribution
    truth: Path  # dataset of the unlabelled play with its true labels
    labels: Path  # of the same episodes, predicted
    recordings: Mapping[str, Path]  # folders of videos: `held-out` and `unlabelled`


class Scores(NamedTuple):
    """All figures of the page."""

    idm: list[Totals]  # per held-out episode, of the most probable labels
    means: list[Totals]  # the same, of the mean angles
    baselines: dict[str, list[Totals]]
    unlabelled: list[Totals]  # per episode, of the labels that the policy is trained on
    policies: dict[str, dict[str, float]]  # metrics at the chosen step, by name
    trivial: dict[str, dict[str, float]]  # metrics of the baselines of a policy
    idm_curve: dict[float, dict[str, float]]  # metrics by minutes of training data, on frames without null actions
    policy_curve: dict[float, dict[str, float]]


def write_loop_report(folder: Path, runs: Runs, seconds: Mapping[str, float]) -> tuple[Path, list[str]]:
    """Write `report.html` into a folder; returns its path and the checked claims, one line each.

    Args:
      folder: output folder.
      runs: the runs to compare.
      seconds: duration of each stage, by name.
    """
    scores = _score(runs)
    claims = list(_claims(scores))
    films = [
        draw_labels(folder, "held-out", runs.recordings, (runs.held_out, "test"), runs.held_out_labels),
        draw_labels(folder, "unlabelled", runs.recordings, (runs.truth, "train"), runs.labels),
    ]
    sections = [
        section("Checked claims", verdict_table(claims)),
        _idm_section(scores, runs),
        _keys_section(scores),
        _policy_section(scores, runs),
        _efficiency_section(scores),
        _confusion_section(runs),
        section("Predicted and true actions", paragraph(FILM_TEXT), grid(films)),
        section("Time", facts_list({name: f"{taken:.0f} s" for name, taken in seconds.items()})),
    ]
    path = folder / "report.html"
    path.write_text(page("Video pretraining at small scale: the whole loop", sections), encoding="utf-8")
    return path, verdict_lines(claims)


def _score(runs: Runs) -> Scores:
    recorded = Stream(StreamSettings(str(runs.held_out), "test", 1, 1, "keep", shuffle=False))
    chosen = {name: _at_chosen_step(workdir) for name, (workdir, _, _) in runs.policies.items()}
    train = Stream(StreamSettings(str(runs.policies["true labels"][1]), "train", 1, 1))
    trivial = policy_baselines(train, Stream(StreamSettings(str(runs.held_out), "test", 1, 1)))
    curve = {}
    for name, (_, dataset, minutes) in runs.policies.items():
        if load_index(dataset, "train").labels == "recorded":
            curve[minutes or len(load_index(dataset, "train").buttons) / FRAME_RATE / 60] = chosen[name]
    return Scores(
        idm=label_totals(load_index(runs.held_out_labels, "train"), recorded.index),
        means=label_totals(load_index(runs.held_out_means, "train"), recorded.index),
        baselines=label_baselines(recorded),
        unlabelled=label_totals(load_index(runs.labels, "train"), load_index(runs.truth, "train")),
        policies=chosen,
        trivial=trivial,
        idm_curve={minutes: _at_last_step(workdir, "test_acting") for minutes, workdir in runs.idms.items()},
        policy_curve=dict(sorted(curve.items())),
    )


def _at_chosen_step(workdir: Path) -> dict[str, float]:
    """Metrics of the split `test` at the step with the lowest loss on `valid` (fidelity S8)."""
    line = best_evaluation(workdir)
    return metrics_of_view(line, "test") | {"step": line["step"]}


def _at_last_step(workdir: Path, view: str) -> dict[str, float]:
    """Metrics of a run's last step, whose checkpoint labels."""
    *_, line = evaluations(workdir)
    return metrics_of_view(line, view) | {"step": line["step"]}


def evaluations(workdir: Path) -> list[dict[str, float]]:
    """Lines of a run's metrics that have figures of the split `test`, in the order of steps."""
    return [line for line in read_metrics(workdir) if "test/nll" in line]


def metrics_of_view(line: Figures, name: str) -> dict[str, float]:
    """Metrics of a split or view in a line of a run's metrics, by their names without it."""
    return {key.removeprefix(f"{name}/"): value for key, value in line.items() if key.startswith(f"{name}/")}


def _claims(scores: Scores) -> Iterator[Verdict]:
    """Claims of the loop."""
    figures, likeliest = (
        compute_metrics(MINERL, sum_totals(scores.means)),
        compute_metrics(MINERL, sum_totals(scores.idm)),
    )
    intervals = confidence_intervals(MINERL, scores.means)  # the keys are those of the likeliest labels
    for name, minimum in {"mouse_r2/pitch": 0.8, "mouse_r2/yaw": 0.8, "f1/mean": 0.6}.items():
        low, high = intervals[name]
        measured = f"{figures[name]:.3f} (95% interval {low:.3f} to {high:.3f})"
        if name in _MEAN_ANGLE_TITLES:
            measured += f"; of the likeliest bin {likeliest[name]:.3f}"
        title = f"{_MEAN_ANGLE_TITLES.get(name, _TITLES[name])}, at least {minimum}"
        yield Verdict(title, measured, figures[name] >= minimum)
    predicted, true, small = (
        scores.policies[name]["nll"] for name in ("predicted labels", "true labels", "the small labelled set")
    )
    yield Verdict(
        "Policy from predicted labels within 5% of the loss of the policy from true labels",
        f"{predicted:.3f} against {true:.3f} nats per frame, {predicted / true - 1:+.1%}",
        predicted <= 1.05 * true,
    )
    yield Verdict(
        "Policy from predicted labels better than from the small labelled set alone",
        f"{predicted:.3f} against {small:.3f} nats per frame, {predicted / small - 1:+.1%}",
        predicted < small,
    )
    ratio, measured = _efficiency(scores, "key_exact")
    yield Verdict("Inverse dynamics needs 5 times fewer minutes for the same key accuracy", measured, ratio >= 5)


def _efficiency(scores: Scores, metric: str) -> tuple[float, str]:
    """Ratio of labelled minutes, best policy to IDM, for at least the same accuracy; and a description.

    The ratio is 0 if no policy is better than the most frequent action.
    """
    minutes, best = max(((m, f[metric]) for m, f in scores.policy_curve.items()), key=lambda pair: pair[1])
    if best <= (trivial := scores.trivial["marginal"][metric]):
        return 0.0, f"no policy is above {trivial:.3f}, the most frequent action"
    enough = [m for m, figures in scores.idm_curve.items() if figures[metric] >= best]
    if not enough:
        return 0.0, f"no inverse dynamics model reaches the policy's {best:.3f} (at {minutes:.3g} minutes)"
    ratio = minutes / min(enough)
    return ratio, f"{min(enough):g} minutes against {minutes:.3g} for {best:.3f}, {ratio:.1f} times fewer"


def _idm_rows(scores: Scores) -> Iterator[list[str]]:
    all_baselines = [compute_metrics(MINERL, sum_totals(episodes)) for episodes in scores.baselines.values()]
    sampled = compute_metrics(MINERL, sum_totals(scores.unlabelled))
    for titles, episodes in ((_TITLES, scores.idm), (_MEAN_ANGLE_TITLES, scores.means)):
        figures, intervals = compute_metrics(MINERL, sum_totals(episodes)), confidence_intervals(MINERL, episodes)
        for name, title in titles.items():
            low, high = intervals[name]
            baselines = (f"{baseline[name]:z.3f}" for baseline in all_baselines)
            sampled_cell = f"{sampled[name]:z.3f}" if titles is _TITLES else ""
            yield [title, f"{figures[name]:z.3f}", f"{low:z.3f} to {high:z.3f}", *baselines, sampled_cell]


def _idm_section(scores: Scores, runs: Runs) -> str:
    text = (
        f"On {sum_totals(scores.idm).frames:,.0f} frames of {len(scores.idm)} held-out episodes, labelled like any "
        "video by the model of the last training step, null actions included; they were played on the level of the "
        "training play, and selected nothing. The 95% intervals are over episodes. The paper reports a keypress "
        "accuracy of 90.6% without a definition; always predicting 'released' scores high in the first of the two, so "
        "its number may be the second. The previous action is the true one, which a video does not contain. Mouse R2 "
        "is of degrees clipped at 10, where the bins end: of the middle of the likeliest bin, and of the mean over all "
        "bins, which minimizes the squared error; the paper does not specify which its 0.97 is. The last column is of "
        "the labels that the policy was trained on: of the unlabelled play, whose true labels neither this model nor "
        "that policy was trained on, sampled from the predicted distribution."
    )
    baselines = (_NAMES[name] for name in scores.baselines)
    columns = ["", "Inverse dynamics model", "95% interval", *baselines, "Sampled labels, unlabelled play"]
    chart = _progress_chart(list(runs.idms.values())[-1])
    return section("Inverse dynamics model", table(columns, list(_idm_rows(scores))), paragraph(text), grid([chart]))


def _progress_chart(workdir: Path) -> str:
    """Held-out metrics of the labelling model by training step, to judge if more training would help."""
    log = evaluations(workdir)
    lines = [
        Line(_CURVE_LABELS[name], [line["step"] for line in log], [line[f"test/{name}"] for line in log], colour)
        for name, colour in zip(_CURVE_LABELS, ("model", "train", "repeat"), strict=True)
    ]
    return curve("Labelling model by training step, on held-out play", lines, "step", "F1 and R2")


def _keys_section(scores: Scores) -> str:
    totals, intervals = sum_totals(scores.idm), confidence_intervals(MINERL, scores.idm)
    figures, repeat = compute_metrics(MINERL, totals), compute_metrics(MINERL, sum_totals(scores.baselines["repeat"]))
    rows: list[Sequence[str | float]] = []
    for i in np.argsort(-totals.pressed, kind="stable"):
        key = BUTTONS[i]
        if f"f1/{key}" not in figures or not totals.pressed[i]:
            continue
        low, high = intervals[f"f1/{key}"]
        shares = [figures[f"{name}/{key}"] for name in ("f1", "precision", "recall")]
        held = totals.pressed[i] / totals.frames
        rows.append([
            key, *shares, f"{low:.2f} to {high:.2f}", repeat.get(f"f1/{key}", 0.0),
            f"{figures[f'accuracy/{key}']:.1%}", f"{1 - held:.1%}", f"{held:.1%}",
        ])  # fmt: skip
    columns = ["Key", "F1", "Precision", "Recall", "F1, 95% interval", "F1 of the previous action", "Accuracy",
               "Accuracy of 'released'", "Held"]  # fmt: skip
    text = "Always predicting 'released' has an F1 of 0. Keys that are never held in the held-out play are omitted."
    return section("Each key", table(columns, rows), paragraph(text))


def _policy_section(scores: Scores, runs: Runs) -> str:
    trivial = scores.trivial["marginal"]["nll"]
    named = {f"Cloned from {name}": figures for name, figures in scores.policies.items() if "minutes" not in name}
    named |= {"Marginal distribution": scores.trivial["marginal"], "Repeat the last action": scores.trivial["repeat"]}
    rows: list[Sequence[str | float]] = [
        [
            name,
            f"{figures['nll']:.3f}",
            f"{1 - figures['nll'] / trivial:.1%}",
            figures["f1/mean"],
            figures["camera_accuracy_moving"],
        ]
        for name, figures in named.items()
    ]
    columns = ["", "NLL, nats per frame", "Below marginal", "Mean F1", "Camera accuracy, moving"]
    colours = {"predicted labels": "model", "true labels": "train", "the small labelled set": "repeat"}
    lines = []
    for name, colour in colours.items():
        log = evaluations(runs.policies[name][0])
        label = name.removeprefix("the ").removesuffix(" labelled set")
        lines.append(Line(label, [line["step"] for line in log], [line["test/nll"] for line in log], colour))
    chart = curve("Loss on held-out play, by training step", lines, "step", "nats per frame")
    text = (
        "Loss of the true actions of held-out play, of each run at its best step on other held-out episodes, which are "
        "in no figure of this page. The policies were trained with the same settings and number of steps; frames "
        "labelled as null actions are dropped, as in the paper. The marginal distribution is that of the true labels; "
        "'repeat' has the true last action as input, which a policy has to infer from the frames."
    )
    return section("Policies", table(columns, rows), grid([chart]), paragraph(text))


def _efficiency_section(scores: Scores) -> str:
    titles = {"key_exact": "All 20 keys right", "f1/mean": "Mean F1 of the keys", "key_accuracy": "Each key right"}
    ticks = sorted({*scores.idm_curve, *(round(m, 1) for m in scores.policy_curve)})
    charts, rows = [], []
    for metric, title in titles.items():
        lines = [
            Line(name, list(by_minutes), [figures[metric] for figures in by_minutes.values()], colour)
            for name, by_minutes, colour in (
                ("IDM", scores.idm_curve, "model"),
                ("policy", scores.policy_curve, "trivial"),
            )
        ]
        charts.append(curve(title, lines, "minutes of labelled play", "share of frames", log_ticks=ticks))
    for name, by_minutes in (("IDM", scores.idm_curve), ("Policy", scores.policy_curve)):
        for minutes, figures in by_minutes.items():
            cells = (f"{figures[metric]:.3f}" for metric in titles)
            rows.append([f"{name}, {minutes:.1f} minutes", f"{figures['step']:,.0f}", *cells])
    for name, figures in scores.trivial.items():
        rows.append([_NAMES[name], "", *(f"{figures[metric]:.3f}" for metric in titles)])
    text = (
        "The paper's figure 3 at small scale: past actions are easier to infer from the frames before and after than "
        "future actions are to predict. All are measured on the same held-out frames, those without null actions: the "
        "IDMs at their last step, the last of which labels, and the policies at their best step on other held-out "
        "episodes. Runs on fewer minutes have fewer steps: with more they only overfit."
    )
    return section("Accuracy against labelled minutes", grid(charts, 24), table(["", "Steps", *titles.values()], rows),
                   paragraph(text))  # fmt: skip


def _confusion_section(runs: Runs) -> str:
    predicted, recorded = load_index(runs.labels, "train"), load_index(runs.truth, "train")
    predicted_actions, true = _aligned(predicted, recorded)
    common = np.flatnonzero(true[0].mean(0) > COMMON_SHARE)
    names = [BUTTONS[i] for i in common]
    held = true[0][:, common].astype(float)
    keys = held.T @ predicted_actions[0][:, common] / np.maximum(held.sum(0), 1)[:, None]
    maps = [heatmap("Keys: of the frames with this key held, the share labelled with that key", names, names, keys)]
    degrees = [f"{angle:+.1f}" for angle in CAMERA.centres]
    for axis, name in enumerate(MINERL.axis_index):
        pairs = np.zeros((CAMERA.num_bins, CAMERA.num_bins))
        bins = (CAMERA.to_bins(np.asarray(camera))[:, axis] for _, camera in (true, predicted_actions))
        np.add.at(pairs, tuple(bins), 1)
        shares = pairs / np.maximum(pairs.sum(1, keepdims=True), 1)
        maps.append(heatmap(f"Camera, {name}: degrees moved (rows) and labelled (columns)", degrees, degrees, shares))
    text = (
        "Of the sampled labels of the unlabelled play. A row is the distribution of the labels of frames with that "
        "true action."
    )
    return section("Confusion of labels", paragraph(text), grid(maps, 34))


def _aligned(predicted: EpisodeIndex, recorded: EpisodeIndex) -> list[tuple[np.ndarray, np.ndarray]]:
    """Buttons and camera of the predicted and of the recorded labels of the same frames."""
    rows = [recorded.rows(recorded.names.index(name)) for name in predicted.names]
    indices = np.concatenate([np.arange(row.start, row.stop) for row in rows])
    return [
        (np.asarray(predicted.buttons), np.asarray(predicted.camera)),
        (np.asarray(recorded.buttons)[indices], np.asarray(recorded.camera)[indices]),
    ]


FILM_TEXT = (
    "Above the picture: the recorded action, and the one predicted by the inverse dynamics model. A lit key is held; "
    "the arrow shows the direction and angle of the camera movement. Labels of unlabelled play are sampled, those of "
    "held-out play are the most probable ones."
)


def draw_labels(folder: Path, name: str, recordings: Mapping[str, Path], truth: tuple[Path, str], labels: Path) -> str:
    """Draw the longest episode with its true and predicted actions, as a film and as an animated picture; returns HTML.

    Args:
      folder: folder of the film, `film-NAME.mp4`, and of the picture, `film-NAME.webp`.
      name: that of the recordings in `recordings`.
      recordings: folders of videos by name.
      truth: dataset and split of the recorded actions.
      labels: dataset of the predicted ones.
    """
    predicted, recorded = load_index(labels, "train"), load_index(*truth)
    episode = predicted.names[int(np.argmax(predicted.lengths))]
    path = folder / f"film-{name}.mp4"
    film_frames = list(_film_frames(recordings[name] / episode, recorded, predicted))
    write_film(path, iter(film_frames))
    write_animation(path.with_suffix(".webp"), film_frames[: ANIMATION_SECONDS * FRAME_RATE])
    return film(path, f"{name.capitalize()} episode {episode}, {FRAME_RATE} frames per second")


def _film_frames(recording: Path, recorded: EpisodeIndex, predicted: EpisodeIndex) -> Iterator[FilmFrame]:
    rows, labels = (index.rows(index.names.index(recording.name)) for index in (recorded, predicted))
    for i, frame in enumerate(large_play(recording)):
        row, label = rows.start + i, labels.start + i
        recorded_action = recorded.buttons[row], recorded.camera[row]
        predicted_action = predicted.buttons[label], predicted.camera[label]
        yield FilmFrame(frame, recorded_action, predicted_action, space=recorded.space)
