"""Report of the showcase: the labels of one IDM, the loss of one policy, its play against the scripted player.

Every figure is of the held-out split `test`, which selects nothing, or of episodes of the game with other seeds. Both
models are those of their last step.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from demo.loop_report import FILM_TEXT, Runs, draw_labels, evaluations, metrics_of_view
from vpt_jax.data.streams import Stream, StreamSettings
from vpt_jax.evaluation.baselines import policy_baselines
from vpt_jax.evaluation.rollouts import RANDOM, SCRIPTED
from vpt_jax.report.experiments import Verdict, verdict_lines, verdict_table
from vpt_jax.report.page import Line, curve, facts_list, film, grid, page, paragraph, section, table

SCORES, PLAYING = "scores", "playing"  # folders in the work directory
POLICY = "policy"  # name of the agent
EVENT_F1 = 0.8


def write_showcase_report(folder: Path, runs: Runs, seconds: Mapping[str, float]) -> tuple[Path, list[str]]:
    """Write `report.html` into a folder; returns its path and the aims, one line each.

    Args:
      folder: work directory, with the outputs of all stages.
      runs: paths of the IDM, the policy and their datasets.
      seconds: duration of each stage, by name.
    """
    ((workdir, _, _),) = runs.policies.values()
    metrics = metrics_of_view(evaluations(workdir)[-1], "test")
    test = Stream(StreamSettings(str(runs.held_out), "test", 1, 1))
    # Of true actions: in sampled labels an action is repeated less often, which would make the baseline weaker.
    baselines = policy_baselines(Stream(StreamSettings(str(runs.held_out), "train", 1, 1)), test)
    scores = json.loads((folder / SCORES / "score.json").read_text())
    play = json.loads((folder / PLAYING / "figures.json").read_text())
    aims = list(_aims(metrics, baselines, scores, play))
    sections = [
        section("Aims", verdict_table(aims)),
        _films_section(folder, runs),
        _idm_section(scores),
        _policy_section(workdir, metrics, baselines),
        _play_section(play),
        section("Time", facts_list({name: f"{taken:.0f} s" for name, taken in seconds.items()})),
    ]
    path = folder / "report.html"
    path.write_text(page("Showcase: labelled clips and a policy that plays", sections), encoding="utf-8")
    return path, verdict_lines(aims)


def _aims(
    metrics: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float]],
    scores: Mapping[str, Any],
    play: Mapping[str, Mapping[str, float]],
) -> Iterator[Verdict]:
    loss, repeat, marginal = metrics["nll"], baselines["repeat"]["nll"], baselines["marginal"]["nll"]
    measured = f"{loss:.3f} against {repeat:.3f} nats per frame; action frequencies alone {marginal:.3f}"
    yield Verdict("Policy: loss on held-out play below that of repeating the last action", measured, loss < repeat)
    events = scores["metrics"]["event_f1/mean"]
    yield Verdict(
        f"IDM: mean F1 of presses and releases within one frame at least {EVENT_F1}",
        f"{events['value']:.3f} (95% interval {events['low']:.3f} to {events['high']:.3f}); "
        "0.000 by the previous action, which has none",
        events["value"] >= EVENT_F1,
    )
    own, scripted = play[POLICY], play[SCRIPTED]
    error = (own["return_error"] ** 2 + scripted["return_error"] ** 2) ** 0.5
    yield Verdict(
        "Policy: places seen within one standard error of the scripted player's",
        ", ".join(f"{name} {play[name]['return']:.2f} ± {play[name]['return_error']:.2f}" for name in _AGENTS),
        own["return"] >= scripted["return"] - error,
    )


_AGENTS = (POLICY, SCRIPTED, RANDOM)


def _films_section(folder: Path, runs: Runs) -> str:
    labelled = draw_labels(folder, "held-out", runs.recordings, (runs.held_out, "test"), runs.held_out_labels)
    played = [
        film(folder / PLAYING / "films" / f"{POLICY}-{rank}.mp4", f"The policy plays: its {rank} episode")
        for rank in ("best", "median", "worst")
    ]
    return section("Films", paragraph(FILM_TEXT), grid([labelled, *played]))


def _idm_section(scores: Mapping[str, Any]) -> str:
    metrics, repeat = scores["metrics"], scores["baselines"]["repeat"]
    rows = [
        [title, f"{metrics[name]['value']:.3f}", f"{metrics[name]['low']:.3f} to {metrics[name]['high']:.3f}",
         f"{repeat[name]['value']:.3f}" if name in repeat else "-"]
        for name, title in _TITLES.items() if name in metrics
    ]  # fmt: skip
    text = (
        "The most probable labels of held-out play, null actions included; intervals are over episodes. The previous "
        "action is the true one, which a video does not contain. score.html in the folder `scores` has all figures."
    )
    columns = ["", "IDM", "95% interval", "Previous action"]
    return section("Inverse dynamics model", table(columns, rows), paragraph(text))


_TITLES = {
    "key_exact": "Frames with all keys right",
    "f1/mean": "Mean F1 of held keys",
    "event_f1/mean": "Mean F1 of presses and releases within one frame",
    "mouse_r2/pitch": "Mouse R2, pitch",
    "mouse_r2/yaw": "Mouse R2, yaw",
}


def _policy_section(workdir: Path, metrics: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]) -> str:
    named = {"Policy": metrics, "Repeat the last action": baselines["repeat"], "Frequencies": baselines["marginal"]}
    columns = ["", "NLL, nats per frame", "Mean F1", "Camera accuracy, moving"]
    rows: list[list[str | float]] = [
        [name, f"{each['nll']:.3f}", each["f1/mean"], each["camera_accuracy_moving"]] for name, each in named.items()
    ]
    log = evaluations(workdir)
    line = Line("policy", [line["step"] for line in log], [line["test/nll"] for line in log], "model")
    chart = curve("Loss on held-out play, by training step", [line], "step", "nats per frame")
    text = (
        "Loss of the true actions of held-out play at the last step; null actions are dropped, as in the paper. The "
        "baselines know the frequencies of the true actions of the labelled play, and 'repeat' the true last action, "
        "which a policy has to infer from the frames."
    )
    return section("Policy", table(columns, rows), grid([chart]), paragraph(text))


def _play_section(play: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[name, f"{play[name]['return']:.2f} ± {play[name]['return_error']:.2f}"] for name in _AGENTS]
    text = "Mean number of places seen in an episode, with its standard error; all agents play the same seeds."
    return section("Play", table(["", "Places"], rows), paragraph(text))
