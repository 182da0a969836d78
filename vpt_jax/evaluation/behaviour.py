"""Idle and stuck time of an episode, in any game: null actions, and actions that leave the picture as it is."""

import math

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions.space import ActionSpace
from vpt_jax.video import FRAME_RATE, Frame

STUCK_STEPS = FRAME_RATE  # of a window: one second
MAX_DIFFERENCE = 2.0  # of still frames: mean over pixels and channels, of 255; compression and animations are below


class BehaviourTracker:
    """Counts the idle steps of an episode, and its stuck windows.

    A window of `STUCK_STEPS` is stuck if more than half of its actions are not null and none of its frames differs from
    its first one by more than `MAX_DIFFERENCE`: the player pushes against a wall, or presses keys without effect.
    """

    def __init__(self, space: ActionSpace):
        self._space = space
        self._steps = self._idle_steps = self._windows = self._stuck_windows = 0
        self._anchor: np.ndarray | None = None
        self._actions, self._moved = 0, False  # of the current window

    def add(self, frame: Frame, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> None:
        """Adds a frame and the action taken after it."""
        null = bool(self._space.is_null(buttons, camera))
        if self._steps % STUCK_STEPS == 0:
            self._anchor, self._actions, self._moved = frame.astype(np.int16), 0, False
        elif not self._moved:
            self._moved = bool(np.abs(frame - self._anchor).mean() > MAX_DIFFERENCE)
        self._steps += 1
        self._idle_steps += null
        self._actions += not null
        if self._steps % STUCK_STEPS == 0:
            self._windows += 1
            self._stuck_windows += not self._moved and 2 * self._actions > STUCK_STEPS

    @property
    def idle(self) -> float:
        """Share of the steps with a null action; NaN without steps."""
        return self._idle_steps / self._steps if self._steps else math.nan

    @property
    def stuck(self) -> float:
        """Share of the complete windows that are stuck; NaN if the episode has none."""
        return self._stuck_windows / self._windows if self._windows else math.nan
