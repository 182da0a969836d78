"""A video as a game, to see what a policy would do in it: whatever is done, the next frame is shown."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vpt_jax.video import Frame, fit_aspect, resize, steady_frames

Observation = dict[str, Frame]


def make(path: str, aspect: tuple[int, int] = (16, 9)) -> "Footage":
    """The video in a file, at 20 frames per second; `aspect` is that of what the policy was trained on."""
    return Footage(Path(path), aspect)


class Footage:
    """As much of a Gymnasium environment as a game needs; an episode is the whole video."""

    def __init__(self, path: Path, aspect: tuple[int, int]):
        """Raises `FileNotFoundError`, and `VideoError` if it cannot be decoded."""
        self._path, self._aspect = path, aspect
        self.observation_space = {"pov": SimpleNamespace(shape=next(self._frames()).shape)}

    def reset(self, *, seed: int | None = None) -> tuple[Observation, dict[str, float]]:
        """The first frame, whatever the seed."""
        self._left = self._frames()
        self._shown = next(self._left)
        return {"pov": self._shown}, {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, float]]:
        """The next frame, whatever the action; after the last, it is shown once more, and the episode cut."""
        frame = next(self._left, None)
        if frame is not None:
            self._shown = resize(frame, *self._shown.shape[:2])  # a video may change its size
        return {"pov": self._shown}, 0.0, False, frame is None, {}

    def close(self) -> None:
        """Nothing is left open."""

    def _frames(self) -> Iterator[Frame]:
        return (fit_aspect(frame, *self._aspect) for frame in steady_frames(self._path))
