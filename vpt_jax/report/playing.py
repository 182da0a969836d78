"""The page of an evaluation in a game: a table of all agents, and films of what they did."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from vpt_jax.evaluation.rollouts import Played, ranked, recording, summarise
from vpt_jax.recording import read_steps
from vpt_jax.report.films import Moment, write_film
from vpt_jax.report.page import film, grid, page, paragraph, section, table
from vpt_jax.video import FRAME_RATE, decode

FILM_SECONDS = 30

_EXPLAINED = (
    "Every agent plays episodes of the same seeds. Behind ± stands the standard error of the mean. Drift is the mean "
    "KL divergence, per step, from the reference policy to the agent, on what the agent sees; a film shows the "
    "beginning of an episode as the policy sees it, enlarged, with the keys and the mouse above it."
)


def write_playing_report(
    folder: Path,
    title: str,
    agents: Mapping[str, Sequence[Played]],
    recordings: Path,
    before: Sequence[str] = (),
    after: Sequence[str] = (),
) -> Path:
    """Writes `report.html` into a folder, and the films it shows into `films` beside the recordings; returns its path.

    Args:
        agents: by name, what they played.
        recordings: a folder of theirs for each.
        before, after: sections above the table of agents, and below the films.
    """
    films, shelf = [], recordings.with_name("films")
    shelf.mkdir(exist_ok=True)
    for name, played in agents.items():
        for place, one in ranked(played).items():
            path, source = shelf / f"{name}-{place}.mp4", recording(recordings / name, one.seed)
            if not path.exists() or path.stat().st_mtime < source.with_suffix(".jsonl").stat().st_mtime:
                write_film(path, _moments(source))
            caption = f"{name}: {place} of {len(played)} episodes, return {one.reward:.1f}, seed {one.seed}"
            films.append(film(path, caption))
    sections = [*before, playing_table(agents), section("Films", grid(films)), *after]
    path = folder / "report.html"
    path.write_text(page(title, sections), encoding="utf-8")
    return path


def playing_table(agents: Mapping[str, Sequence[Played]]) -> str:
    """All agents' figures in a section."""
    figures = {name: summarise(played) for name, played in agents.items()}
    items = [key.removeprefix("milestone/") for key in next(iter(figures.values())) if key.startswith("milestone/")]
    columns = ["Agent", "Return", "Steps", "Ended by the game", "Drift, nats", "Episodes", "Lost"]
    for item in items:
        columns += [f"{item}, mean", f"{item}, share of episodes"]
    return section("Agents", paragraph(_EXPLAINED), table(columns, [_row(*pair, items) for pair in figures.items()]))


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


def _moments(path: Path) -> Iterator[Moment]:
    """The beginning of a recording."""
    steps, frames = read_steps(path.with_suffix(".jsonl")), decode(path.with_suffix(".mp4"))
    for frame, *action in islice(zip(frames, steps.buttons, steps.camera, strict=False), FILM_SECONDS * FRAME_RATE):
        yield Moment(frame, (action[0], action[1]))
