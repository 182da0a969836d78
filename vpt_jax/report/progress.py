"""The page of a loop that is still running: finished stages, and films as soon as there is something to see."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from vpt_jax.data.dataset import load_index
from vpt_jax.recording import read_frames, read_steps
from vpt_jax.report.films import Moment, write_film
from vpt_jax.report.page import facts_list, film, grid, page, paragraph, section
from vpt_jax.system.workers import unique_name
from vpt_jax.video import FRAME_RATE, decode, resize

FILM_SECONDS = 15
FILM_SIZE = 288, 512  # height, width


class ProgressPage:
    """A page that is rewritten while stages run, until the report of the whole loop takes its place.

    Args:
        path: of the page, NAME.html; films are drawn beside it.
        stages: names of all stages.
        films: what gives the play of each film, by the film's caption; None as long as there is nothing to see.
    """

    def __init__(self, path: Path, stages: Sequence[str], films: Mapping[str, Callable[[], Iterator[Moment] | None]]):
        self._path, self._stages, self._films = path, stages, films
        self._drawn: dict[str, str] = {}  # parts of the page, by caption

    def write(self, seconds: Mapping[str, float]) -> None:
        """Write the page, given the seconds that each finished stage took, and draw the films that it lacks."""
        for number, (caption, play) in enumerate(self._films.items(), 1):
            if caption not in self._drawn and (moments := play()) is not None:
                self._drawn[caption] = ""  # one that cannot be drawn is tried once
                drawing = unique_name(self._path.with_name(f"film-{number}.mp4"))
                write_film(drawing, islice(moments, FILM_SECONDS * FRAME_RATE))
                self._drawn[caption] = film(drawing, caption)
                drawing.replace(self._path.with_name(f"film-{number}.mp4"))
        done = {name: f"{seconds[name]:.0f} s" if name in seconds else "not done yet" for name in self._stages}
        sections = [
            section("Films so far", paragraph(_TEXT), grid([*self._drawn.values()])),
            section(f"Stages: {len(seconds)} of {len(self._stages)} are done", facts_list(done)),
        ]
        writing = unique_name(self._path)
        writing.write_text(page("Video pretraining in small: still running", sections), encoding="utf-8")
        writing.replace(self._path)


_TEXT = (
    "Reload this page to see more: it is written anew as stages go on, and the report takes its place at the end. "
    "Keys that are held and the mouse's movement are drawn above each frame."
)


def recorded_play(recordings: Path) -> Iterator[Moment] | None:
    """The first whole recording of a folder that is being written, with its own actions; None: there is none yet."""
    whole = sorted(recordings.glob("*.jsonl"))  # a recording's .mp4 has its name before
    return _recorded(whole[0]) if whole else None


def _recorded(jsonl: Path) -> Iterator[Moment]:
    steps = read_steps(jsonl)
    frames = read_frames(jsonl.with_suffix(".mp4"), steps, *FILM_SIZE)
    for frame, *action in zip(frames, steps.buttons, steps.camera, strict=False):
        yield Moment(frame, (action[0], action[1]))


def labelled_play(dataset: Path, videos: Path) -> Iterator[Moment] | None:
    """The longest video of a folder of videos, NAME.mp4, with its labels in a dataset; None: that is not made yet."""
    return _labelled(dataset, videos) if dataset.exists() else None  # it has its name once it is whole


def _labelled(dataset: Path, videos: Path) -> Iterator[Moment]:
    index = load_index(dataset, "train")
    episode = int(index.lengths.argmax())
    rows = index.rows(episode)
    labels = zip(index.buttons[rows], index.camera[rows], strict=True)
    for frame, action in zip(decode(videos / f"{index.names[episode]}.mp4"), labels, strict=False):
        yield Moment(resize(frame, *FILM_SIZE), action)
