"""Progress page of a running pipeline: finished stages, and films as soon as their data exist."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from demo.films import large_play
from vpt_jax.data.dataset import load_index
from vpt_jax.recording import read_steps
from vpt_jax.report.films import FilmFrame, write_film
from vpt_jax.report.page import facts_list, film, grid, page, paragraph, section
from vpt_jax.system.workers import temporary_path

FilmLoader = Callable[[], Iterator[FilmFrame] | None]  # returns None as long as the film's data do not exist


class ProgressPage:
    """A page that is rewritten while stages run, until the report of the whole loop replaces it.

    Args:
        path: of the page, NAME.html; films are written next to it.
        stages: names of all stages.
        films: functions that return the frames of each film, by caption; None as long as its data do not exist.
    """

    def __init__(self, path: Path, stages: Sequence[str], films: Mapping[str, FilmLoader]):
        self._path, self._stages, self._films = path, stages, films
        self._drawn: dict[str, str] = {}  # parts of the page, by caption

    def write(self, seconds: Mapping[str, float]) -> None:
        """Write the page, given the seconds of each finished stage, and draw the films that it does not have yet."""
        for number, (caption, load) in enumerate(self._films.items(), 1):
            if caption not in self._drawn and (film_frames := load()) is not None:
                self._drawn[caption] = ""  # a film that cannot be drawn is tried only once
                temporary = temporary_path(self._path.with_name(f"film-{number}.mp4"))
                write_film(temporary, film_frames)
                self._drawn[caption] = film(temporary, caption)
                temporary.replace(self._path.with_name(f"film-{number}.mp4"))
        done = {name: f"{seconds[name]:.0f} s" if name in seconds else "not done yet" for name in self._stages}
        sections = [
            section("Films so far", paragraph(_TEXT), grid([*self._drawn.values()])),
            section(f"Stages: {len(seconds)} of {len(self._stages)} are done", facts_list(done)),
        ]
        temporary = temporary_path(self._path)
        temporary.write_text(page("Video pretraining at small scale: still running", sections), encoding="utf-8")
        temporary.replace(self._path)


_TEXT = (
    "Reload this page to update it: it is rewritten while stages run, and replaced by the report at the end. "
    "Keys that are held and the mouse's movement are drawn above each frame."
)


def recorded_play(recordings: Path) -> Iterator[FilmFrame] | None:
    """The first complete recording of a folder that is being written, with its actions; None: there is none yet."""
    complete = sorted(recordings.glob("*.jsonl"))  # the .mp4 of a recording is renamed first
    return _recorded(complete[0]) if complete else None


def _recorded(jsonl: Path) -> Iterator[FilmFrame]:
    steps = read_steps(jsonl)
    for frame, *action in zip(large_play(jsonl.with_suffix("")), steps.buttons, steps.camera, strict=False):
        yield FilmFrame(frame, (action[0], action[1]))


def labelled_play(dataset: Path, videos: Path) -> Iterator[FilmFrame] | None:
    """The longest video of a folder of videos, NAME.mp4, with its labels in a dataset; None: no dataset yet."""
    return _labelled(dataset, videos) if dataset.exists() else None  # the folder is renamed when it is complete


def _labelled(dataset: Path, videos: Path) -> Iterator[FilmFrame]:
    index = load_index(dataset, "train")
    episode = int(index.lengths.argmax())
    rows = index.rows(episode)
    labels = zip(index.buttons[rows], index.camera[rows], strict=True)
    for frame, action in zip(large_play(videos / index.names[episode]), labels, strict=False):
        yield FilmFrame(frame, action, space=index.space)
