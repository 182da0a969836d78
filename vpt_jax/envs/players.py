"""Players: what chooses the next action from what a game shows, with a hand that moves keys and mouse as people do."""

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax import actions
from vpt_jax.actions import BUTTON_INDEX, BUTTONS

MOUSE_STEP = 0.15  # degrees the view turns per mouse count, in Minecraft at its default sensitivity
_STREAMS = resources.files("vpt_jax.envs") / "human_streams.npz"


class Player(Protocol):
    """Something that plays: it sees what `Env.reset` or `Env.step` gave, and answers with an action for `Env.step`."""

    def act(self, observation: Mapping[str, Any], info: Mapping[str, float]) -> dict[str, Any]:
        """The next 24-key action."""
        ...


class HumanStreamPlayer:
    """Plays what people once did in Minecraft, whatever it sees: recorded actions from a random place onwards.

    Its keys and mouse are truly human in their statistics, though not in what they are for. There are three streams of
    one minute; a stream starts over at its end.
    """

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        with np.load(str(_STREAMS)) as file:
            names = sorted(name.removesuffix("/buttons") for name in file.files if name.endswith("/buttons"))
            name = names[rng.integers(len(names))]
            self._buttons, self._camera = file[f"{name}/buttons"], file[f"{name}/camera_degrees"]
        self._step = int(rng.integers(len(self._buttons)))

    def act(self, observation: Mapping[str, Any], info: Mapping[str, float]) -> dict[str, Any]:
        """The action of the stream's next step."""
        step, self._step = self._step, (self._step + 1) % len(self._buttons)
        return actions.env_from_raw(self._buttons[step], self._camera[step])


class Hand:
    """Carries out what a scripted player wants, at a human hand's pace and precision.

    Keys stay down, or up, for at least a moment. The mouse moves in strokes: bell-shaped in speed, too long or too
    short by a tenth, and followed by a short rest in which the eye measures what is left.
    """

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._held = np.zeros(len(BUTTONS), np.uint8)
        self._fixed = np.zeros(len(BUTTONS), int)  # steps until a key may change again
        self._stroke = np.zeros((0, 2))
        self._rest = 0

    def move(self, keys: Iterable[str], turn: Float[np.ndarray, "2"], tolerance: float) -> dict[str, Any]:
        """The next action for keys that should be held, and degrees (pitch, yaw) the view should still turn.

        A turn below `tolerance` degrees is left alone.
        """
        return actions.env_from_raw(self._press(keys), self._slide(turn, tolerance))

    def _press(self, keys: Iterable[str]) -> UInt8[np.ndarray, "20"]:
        wanted = np.zeros_like(self._held)
        wanted[[BUTTON_INDEX[key] for key in keys]] = 1
        self._fixed -= 1
        change = (wanted != self._held) & (self._fixed <= 0)
        self._held = np.where(change, wanted, self._held)
        self._fixed = np.where(change, self._rng.integers(4, 10, len(BUTTONS)), self._fixed)
        return self._held

    def _slide(self, turn: Float[np.ndarray, "2"], tolerance: float) -> Float[np.ndarray, "2"]:
        if not len(self._stroke):
            self._rest -= 1
            if self._rest > 0 or np.abs(turn).max() < tolerance:
                return np.zeros(2)
            self._stroke = self._plan_stroke(turn)
            self._rest = int(self._rng.integers(2, 6))
        step, self._stroke = self._stroke[0], self._stroke[1:]
        return np.round(step / MOUSE_STEP) * MOUSE_STEP

    def _plan_stroke(self, turn: Float[np.ndarray, "2"]) -> Float[np.ndarray, "steps 2"]:
        steps = int(np.clip(2.5 + np.abs(turn).max() / 6 + self._rng.normal(0, 0.7), 2, 24))
        time = (np.arange(steps) + 0.5) / steps
        speed = (time * (1 - time)) ** 2  # the least jerky way from rest to rest
        wobble = speed[:, None] * (1 + self._rng.normal(0, 0.12, (steps, 2)))
        return turn * self._rng.normal(1, 0.1) * wobble / speed.sum()
