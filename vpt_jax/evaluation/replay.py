"""Replay of recorded episodes at the size of films: a model's own frames are too small to show anything.

In a deterministic game, equal seeds and equal actions give equal episodes, whatever the size of the frames.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import cv2
import numpy as np

from vpt_jax.envs.vector.client import EnvLostError, EnvSpec
from vpt_jax.envs.vector.pool import Pool
from vpt_jax.evaluation.episode_files import EpisodeActions
from vpt_jax.video import Frame

FILM_SIZE = 288, 512  # height, width
# Mean difference of two pictures of the same play, in levels of 0 to 255: about 7 in small frames, which are compressed
# and rendered in another mode; pictures of other moments differ by 20 and more.
_MAX_DIFFERENCE = 15.0


def film_spec(spec: EnvSpec) -> EnvSpec:
    """Specification of the same game with frames of `FILM_SIZE`."""
    height, width = FILM_SIZE
    return replace(spec, arguments={**spec.arguments, "height": height, "width": width})


def replay(spec: EnvSpec, seed: int, steps: EpisodeActions) -> Iterator[Frame]:
    """Yields the frame before each action of an episode that is played again; it may end with fewer frames.

    Args:
        spec: of the game, with the size of the frames among its arguments.
        seed: of the episode.
        steps: recorded actions.

    Raises:
        EnvLostError: the game does not start, or was lost several times.
    """
    with Pool(spec, [iter([seed])], FILM_SIZE, rewards={}) as pool:
        time_step = pool.begin()
        for buttons, camera in zip(steps.buttons, steps.camera, strict=True):
            if not time_step.playing[0]:
                return
            yield time_step.frames[0].copy()
            time_step = pool.step(buttons[None], camera[None])


def large_frames(recorded: Iterable[Frame], replayed: Iterable[Frame]) -> list[Frame]:
    """Replayed frames if they show the same play as the recorded ones, else the recorded ones.

    The latter also if the game is lost. All are held in memory: 9 MB for a second.
    """
    small = list(recorded)
    try:
        large = list(replayed)
    except EnvLostError as error:
        print(f"a film shows the recorded frames, since the episode cannot be played again: {error}", flush=True)
        return small
    return large if small and len(large) == len(small) and _shows_same_play(small, large) else small


def _shows_same_play(small: list[Frame], large: list[Frame]) -> bool:
    height, width = small[0].shape[:2]
    reduced = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in large])
    return bool(np.abs(reduced.astype(np.int16) - np.stack(small)).mean() < _MAX_DIFFERENCE)
