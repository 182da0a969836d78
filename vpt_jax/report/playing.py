"""Report of an evaluation in a game: a table of all agents, and films of their episodes."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import ActionSpace
from vpt_jax.evaluation.episode_files import EpisodeActions, actions_file, read_actions
from vpt_jax.evaluation.replay import large_frames
from vpt_jax.evaluation.resampling import Figure
from vpt_jax.evaluation.rollouts import EpisodeResult, best_median_worst, play_figures, recording_path, summarize
from vpt_jax.report.films import FilmFrame, write_film
from vpt_jax.report.page import Line, curve, film, grid, page, paragraph, section, table
from vpt_jax.video import FRAME_RATE, Frame, decode

# Agent, seed and recorded actions -> frames of the episode, played again at the size of films
Replay = Callable[[str, int, EpisodeActions], Iterator[Frame]]

FILM_SECONDS = 30
_RUN_COLOURS, _OTHER_STYLES = ("model", "train", "repeat"), ("--", ":")

_EXPLAINED = (
    "Every agent plays episodes of the same seeds. ± is the standard error of the mean. Drift is the mean "
    "KL divergence, per step, from the reference policy to the agent, on the agent's frames; a film shows the "
    "beginning of an episode with the keys and the mouse above it: played again in larger frames where the game is "
    "deterministic, else in the policy's input frames, enlarged."
)
_FIGURES_EXPLAINED = (
    "Over episodes: bootstrap intervals of means, Wilson's of shares of episodes (milestones, and those that the game "
    "ended). A mean of equal values has an empty interval: of an item that nobody got, see the share. Idle is the "
    "share of steps with a null action; stuck, the share of seconds in which most actions are not null and the picture "
    "stays as it is."
)
_SHARES = ("idle", "stuck", "terminated", "milestone/")


def write_playing_report(
    folder: Path,
    title: str,
    agents: Mapping[str, Sequence[EpisodeResult]],
    recordings: Path,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    replay: Replay | None = None,
    space: ActionSpace = MINERL,
) -> Path:
    """Write `report.html` into a folder, and its films into `films` next to the recordings; returns the page's path.

    Args:
        folder: output folder.
        title: title of the page.
        agents: results of the episodes of each agent, by name.
        recordings: a folder with the recordings of each agent in a subfolder.
        before, after: sections above the table of agents, and below the films.
        replay: plays an episode again, for films that do not exist yet; None: they show the recorded frames.
        space: of the actions, except in recordings of OpenAI's format, which are of MineRL's.
    """
    films, film_folder = [], recordings.with_name("films")
    film_folder.mkdir(exist_ok=True)
    for name, played in agents.items():
        recorded = [one for one in played if actions_file(recording_path(recordings / name, one.seed)).exists()]
        for rank, one in best_median_worst(recorded).items():
            path, source = film_folder / f"{name}-{rank}.mp4", recording_path(recordings / name, one.seed)
            if not path.exists() or path.stat().st_mtime < actions_file(source).stat().st_mtime:
                write_film(path, _film_frames(source, space, replay and partial(replay, name, one.seed)))
            caption = f"{name}: {rank} of {len(recorded)} episodes, return {one.reward:.1f}, seed {one.seed}"
            films.append(film(path, caption))
    sections = [*before, playing_table(agents), behaviour_table(agents), section("Films", grid(films)), *after]
    path = folder / "report.html"
    path.write_text(page(title, sections), encoding="utf-8")
    return path


def playing_table(agents: Mapping[str, Sequence[EpisodeResult]]) -> str:
    """A section with a table of all agents' metrics."""
    figures = {name: summarize(played) for name, played in agents.items()}
    items = [key.removeprefix("milestone/") for key in next(iter(figures.values())) if key.startswith("milestone/")]
    columns = ["Agent", "Return", "Steps", "Ended by the game", "Drift, nats", "Episodes", "Lost"]
    for item in items:
        columns += [f"{item}, mean", f"{item}, share of episodes"]
    return section("Agents", paragraph(_EXPLAINED), table(columns, [_row(*pair, items) for pair in figures.items()]))


def checkpoints_section(
    runs: Mapping[str, Mapping[str, float]], x_label: str, agents: Mapping[str, Sequence[EpisodeResult]]
) -> str:
    """A section with charts over the checkpoints of runs: return, and number of each item per episode.

    Args:
        runs: agents that are checkpoints of a run, with the epoch or the step of each, by name of the run.
        x_label: "epoch" or "step".
        agents: results of all agents; those that are of no run are drawn as horizontal lines.
    """
    figures = {name: summarize(played) for name, played in agents.items()}
    others = [name for name in agents if not any(name in run for run in runs.values())]
    items = [key for key in next(iter(figures.values())) if key.startswith("obtained/")]
    error_of = {"return": "return_error", **{item: item.replace("/", "_error/") for item in items}}
    end = max(x for run in runs.values() for x in run.values())
    charts = []
    for metric, error_name in error_of.items():
        lines = []
        for (run, checkpoints), colour in zip(runs.items(), cycle(_RUN_COLOURS)):
            x, names = zip(*sorted((x, name) for name, x in checkpoints.items()), strict=True)
            means, errors = ([figures[name][key] for name in names] for key in (metric, error_name))
            intervals = [(mean - error, mean + error) for mean, error in zip(means, errors, strict=True)]
            lines.append(Line(run, x, means, colour, intervals=intervals))
        for name, style in zip(others, cycle(_OTHER_STYLES)):
            lines.append(Line(name, [0, end], [figures[name][metric]] * 2, "trivial", style, 1.3))
        charts.append(curve(metric.removeprefix("obtained/"), lines, x_label, "mean of an episode"))
    text = f"Means over episodes by {x_label} of training; shaded: one standard error. Dashed: agents without training."
    return section("Checkpoints", grid(charts), paragraph(text))


def _row(name: str, figures: Mapping[str, float], items: Sequence[str]) -> list[str | float]:
    row: list[str | float] = [
        name,
        f"{figures['return']:.2f} ± {figures['return_error']:.2f}",
        f"{figures['steps']:.0f}",
        figures["terminated"],
        "" if math.isnan(figures["drift"]) else f"{figures['drift']:.2f}",
        f"{figures['episodes']:.0f}",
        f"{figures['lost']:.0f}",
    ]
    for item in items:
        error = figures[f"obtained_error/{item}"]
        row += [f"{figures[f'obtained/{item}']:.2f} ± {error:.2f}", figures[f"milestone/{item}"]]
    return row


def behaviour_table(agents: Mapping[str, Sequence[EpisodeResult]]) -> str:
    """A section with a table of all agents' figures and their intervals."""
    figures = {name: play_figures(played) for name, played in agents.items()}
    names = figure_names(list(figures.values()))
    rows = [[name, *figure_cells(of_agent, names)] for name, of_agent in figures.items()]
    return section("Play, with 95% intervals", table(["Agent", *names], rows), paragraph(_FIGURES_EXPLAINED))


def figure_names(agents: Sequence[Mapping[str, Figure]]) -> list[str]:
    """Names of the figures that at least one agent has, in order."""
    return list(dict.fromkeys(name for figures in agents for name in figures))


def figure_cells(figures: Mapping[str, Figure], names: Sequence[str]) -> list[str]:
    """Cells of a table's row; empty where the agent has no such figure."""
    return [format_figure(name, figures[name]) if name in figures else "" for name in names]


def format_figure(name: str, figure: Figure) -> str:
    """A figure with its interval, if it has one; shares in percent."""
    unit = ".0%" if name.startswith(_SHARES) else ".2f"
    value, low, high = (format(number, unit) for number in figure)
    return value if math.isnan(figure.low) else f"{value} [{low}, {high}]"


def _film_frames(
    path: Path, space: ActionSpace, replay: Callable[[EpisodeActions], Iterator[Frame]] | None
) -> Iterator[FilmFrame]:
    """Film frames of the first `FILM_SECONDS` of a recording."""
    count = FILM_SECONDS * FRAME_RATE
    actions = read_actions(path, space, count)
    frames: Iterable[Frame] = islice(decode(path.with_suffix(".mp4")), count)
    if replay is not None:
        frames = large_frames(frames, replay(actions))
    for frame, *action in zip(frames, actions.buttons, actions.camera, strict=False):
        yield FilmFrame(frame, (action[0], action[1]), space=actions.space)
