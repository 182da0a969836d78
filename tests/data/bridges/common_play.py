"""One made-up play that the tests of all formats write: the same frames, keys and mouse, at 20 steps per second.

Every format's test module has a function `write(folder, name, play)`, which writes the play in its format, with the
format's own library. `play.video` is the one video file that formats with a video copy; formats that hold pixels store
`play.frames`, which are decoded from it. Mouse movements are values that every format can store (the CS:GO dataset has
bins).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vpt_jax.video import VideoWriter, decode

RATE = 20
KEYS = ("w", "a", "s", "d", "space", "left_shift", "r", "mouse.left", "mouse.right")
SIZE = 192  # the P2P dataset has 192x192
MOUSE = np.array([-100, -20, -10, -4, -2, 0, 0, 0, 2, 4, 10, 20, 100])  # counts per step


@dataclass(frozen=True)
class CommonPlay:
    """A play of `steps` steps; step i is what the player did from frame i to the next."""

    video: Path
    held: np.ndarray  # bool [steps, keys], in the order of KEYS
    mouse: np.ndarray  # int [steps, 2]: x and y in counts; right and down are positive

    @cached_property
    def frames(self) -> np.ndarray:
        """uint8 [steps, 192, 192, 3], decoded from the video."""
        return np.stack(list(decode(self.video)))


def make_play(folder: Path, steps: int = 60, seed: int = 0) -> CommonPlay:
    """Makes a play and its video, `folder`/common.mp4; all keys are up in the first and last step."""
    rng = np.random.default_rng(seed)
    held = np.zeros((steps, len(KEYS)), bool)
    for key in range(len(KEYS)):
        for start in rng.choice(steps - 12, 3, replace=False):
            held[1 + start : 1 + start + rng.integers(1, 9), key] = True
    mouse = rng.choice(MOUSE, (steps, 2))
    video = folder / "common.mp4"
    with VideoWriter(str(video), SIZE, SIZE) as writer:
        for step in range(steps):
            y, x = np.mgrid[:SIZE, :SIZE] // 24
            frame = np.stack([(x * 31 + step * 5) % 256, (y * 23) % 256, np.full_like(x, step * 4 % 256)], -1)
            writer.write(frame.astype(np.uint8))
    return CommonPlay(video, held, mouse)
