"""Environment that replays a video, to inspect the actions of a policy on it; actions have no effect."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vpt_jax.video import Frame, fit_aspect, resampled_frames, resize

Observation = dict[str, Frame]


def make(path: str, aspect: tuple[int, int] = (16, 9)) -> "VideoEnv":
    """Returns the environment of a video file, at 20 frames per second.

    `aspect` is the aspect ratio (width, height) of the frames that the policy was trained on.
    """
    return VideoEnv(Path(path), aspect)


class VideoEnv:
    """Minimal Gymnasium environment that replays a video; an episode is the whole video."""

    def __init__(self, path: Path, aspect: tuple[int, int]):
        """Raises `FileNotFoundError`, and `VideoError` if it cannot be decoded."""
        self._path, self._aspect = path, aspect
        self.observation_space = {"pov": SimpleNamespace(shape=next(self._frames()).shape)}

    def reset(self, *, seed: int | None = None) -> tuple[Observation, dict[str, float]]:
        """Returns the first frame, independent of the seed."""
        self._remaining = self._frames()
        self._frame = next(self._remaining)
        return {"pov": self._frame}, {}

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, float]]:
        """Returns the next frame, independent of the action; after the last, repeats it and truncates the episode."""
        frame = next(self._remaining, None)
        if frame is not None:
            self._frame = resize(frame, *self._frame.shape[:2])  # a video may change its size
        return {"pov": self._frame}, 0.0, False, frame is None, {}

    def close(self) -> None:
        """Does nothing: no resource is left open."""

    def _frames(self) -> Iterator[Frame]:
        return (fit_aspect(frame, *self._aspect) for frame in resampled_frames(self._path))
