"""Contact sheet and film of an episode, or of randomly chosen excerpts, with keys and mouse drawn on the frames."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from vpt_jax.curation.validation.episodes import Episode, InspectionError, find_episodes, read_frames
from vpt_jax.curation.validation.outputs import out_folder
from vpt_jax.report.films import FilmFrame, draw_large, write_film
from vpt_jax.system.atomic_files import atomic_write
from vpt_jax.system.printable import printable
from vpt_jax.system.workers import locked
from vpt_jax.video import FRAME_RATE

COLUMNS, ROWS = 4, 6  # of a contact sheet
TILE_WIDTH = 320  # pixels


class Excerpt(NamedTuple):
    """A range of frames of an episode."""

    episode: Episode
    start: int
    stop: int


def show(config: ConfigDict) -> Path:
    """Writes `show.png` and `show.mp4` of `config.episode`, or of excerpts of all; returns their folder.

    Raises `InspectionError` and `DatasetMissingError`.
    """
    if config.num_excerpts < 1 or config.seconds <= 0:
        raise InspectionError("config.num_excerpts and config.seconds must be more than 0, or there is nothing to show")
    excerpts = choose(find_episodes(Path(config.data)), config)
    with locked(out := out_folder(config)):
        with atomic_write(out / "show.mp4") as film:
            write_film(film, (moment for excerpt in excerpts for moment in _moments(excerpt)))
        picture = cv2.cvtColor(contact_sheet(excerpts), cv2.COLOR_RGB2BGR)
        with atomic_write(out / "show.png") as sheet:
            sheet.write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    print(
        f"{out / 'show.png'} and show.mp4:",
        *(printable(f"  {e.episode}, frames {e.start} to {e.stop}") for e in excerpts),
        sep="\n",
    )
    return out


def choose(episodes: Sequence[Episode], config: ConfigDict) -> list[Excerpt]:
    """The whole `config.episode`, or `config.num_excerpts` random excerpts of `config.seconds`, by `config.seed`."""
    if config.episode:
        matches = [episode for episode in episodes if config.episode in (episode.name, str(episode))]
        if not matches:
            raise InspectionError(
                f"there is no episode {config.episode!r} in {config.data}; the first is {episodes[0]}"
            )
        return [Excerpt(matches[0], 0, matches[0].frames)]
    rng = np.random.default_rng(config.seed)
    lengths = np.array([episode.frames for episode in episodes])
    length = max(1, round(config.seconds * FRAME_RATE))
    excerpts = []
    for number in rng.choice(len(episodes), config.num_excerpts, p=lengths / lengths.sum()):
        start = int(rng.integers(max(1, lengths[number] - length + 1)))
        excerpts.append(Excerpt(episodes[number], start, min(start + length, int(lengths[number]))))
    return excerpts


def _moments(excerpt: Excerpt) -> Iterator[FilmFrame]:
    """Yields all frames of an excerpt with their actions; holds one second of frames in memory."""
    for start in range(excerpt.start, excerpt.stop, FRAME_RATE):
        for i, frame in enumerate(read_frames(excerpt.episode, start, min(start + FRAME_RATE, excerpt.stop)), start):
            yield _moment(excerpt.episode, i, frame)


def _moment(episode: Episode, number: int, frame: UInt8[np.ndarray, "h w 3"]) -> FilmFrame:
    row, index = episode.rows.start + number, episode.index
    return FilmFrame(frame, (index.buttons[row], index.camera[row]), note=f"{episode} {number}")


def contact_sheet(excerpts: Sequence[Excerpt]) -> UInt8[np.ndarray, "h w 3"]:
    """Evenly spaced frames of the excerpts as a grid of tiles, in order of time; empty tiles are black."""
    places = [(excerpt.episode, i) for excerpt in excerpts for i in range(excerpt.start, excerpt.stop)]
    wanted = np.linspace(0, len(places) - 1, min(COLUMNS * ROWS, len(places))).round().astype(int)
    tiles = [_tile(*places[i]) for i in wanted]
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % COLUMNS)
    return np.concatenate([np.concatenate(tiles[i : i + COLUMNS], 1) for i in range(0, len(tiles), COLUMNS)])


def _tile(episode: Episode, number: int) -> UInt8[np.ndarray, "h w 3"]:
    drawn = draw_large(_moment(episode, number, read_frames(episode, number, number + 1)[0]))
    size = (TILE_WIDTH, round(TILE_WIDTH * drawn.shape[0] / drawn.shape[1]))
    return cv2.resize(drawn, size, interpolation=cv2.INTER_AREA)
