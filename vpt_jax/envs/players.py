"""Players that see no game: random actions, human action streams; and a model of human keyboard and mouse input."""

from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from vpt_jax.actions.joint import MAX_CLASSES, JointAction, num_classes, raw_from_joint
from vpt_jax.actions.minerl import BUTTON_INDEX, BUTTONS, MINERL
from vpt_jax.actions.space import ActionSpace

MOUSE_STEP = 0.15  # degrees the view turns per mouse count, in Minecraft at its default sensitivity
_STREAMS = resources.files("vpt_jax.envs") / "human_streams.npz"


class Player(Protocol):
    """Interface of a player: maps the observation and info of `Env.reset` or `Env.step` to the next action."""

    caption: str  # of the last action: what the player is doing; "": nothing is known

    def act(self, observation: Mapping[str, Any], info: Mapping[str, float]) -> dict[str, Any]:
        """Returns the next 24-key action."""
        ...


def random_actions(
    space: ActionSpace, rng: np.random.Generator, n: int
) -> tuple[UInt8[np.ndarray, "n keys"], Float[np.ndarray, "n axes"]]:
    """Samples uniformly from all joint actions, or from all factored ones where a space has too many joint classes."""
    classes = num_classes(space)
    if max(classes) <= MAX_CLASSES:
        return raw_from_joint(space, JointAction(*(rng.integers(number, size=n) for number in classes)))
    buttons = rng.integers(2, size=(n, len(space.keys))).astype(np.uint8)
    return buttons, space.to_movement(rng.integers(space.num_bins, size=(n, len(space.axes))))


class RandomPlayer:
    """Takes a new random action in every step."""

    caption = ""

    def __init__(self, seed: int):
        self._rng = np.random.default_rng(seed)

    def act(self, observation: Mapping[str, Any], info: Mapping[str, float]) -> dict[str, Any]:
        """Returns a random action."""
        buttons, camera = random_actions(MINERL, self._rng, 1)
        return MINERL.to_env(buttons[0], camera[0])


class HumanStreamPlayer:
    """Replays recorded human actions of Minecraft from a random position, independent of the observation.

    Its keys and mouse moves have human statistics, but no relation to the game. There are three streams of one minute;
    a stream repeats from its start.
    """

    caption = ""

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        with np.load(str(_STREAMS)) as file:
            names = sorted(name.removesuffix("/buttons") for name in file.files if name.endswith("/buttons"))
            name = names[rng.integers(len(names))]
            self._buttons, self._camera = file[f"{name}/buttons"], file[f"{name}/camera_degrees"]
        self._step = int(rng.integers(len(self._buttons)))

    def act(self, observation: Mapping[str, Any], info: Mapping[str, float]) -> dict[str, Any]:
        """Returns the action of the stream's next step."""
        step, self._step = self._step, (self._step + 1) % len(self._buttons)
        return MINERL.to_env(self._buttons[step], self._camera[step])


class HumanInputModel:
    """Model of human keyboard and mouse input: limits a scripted player to a person's speed and precision.

    A key stays down, or up, for a minimum time of 4 to 9 steps. The mouse moves in strokes with a bell-shaped speed
    profile and a length error of about 10%, each followed by a short pause before the rest of the turn.
    """

    def __init__(self, rng: np.random.Generator):
        self._rng = rng
        self._held = np.zeros(len(BUTTONS), np.uint8)
        self._locked = np.zeros(len(BUTTONS), int)  # steps until a key may change again
        self._stroke = np.zeros((0, 2))
        self._pause = 0

    def move(self, keys: Iterable[str], turn: Float[np.ndarray, "2"], tolerance: float) -> dict[str, Any]:
        """Returns the next action, for the keys to hold and the remaining turn (pitch, yaw) in degrees.

        A turn below `tolerance` degrees is not made.
        """
        return MINERL.to_env(self._press(keys), self._slide(turn, tolerance))

    def _press(self, keys: Iterable[str]) -> UInt8[np.ndarray, "20"]:
        requested = np.zeros_like(self._held)
        requested[[BUTTON_INDEX[key] for key in keys]] = 1
        self._locked -= 1
        change = (requested != self._held) & (self._locked <= 0)
        self._held = np.where(change, requested, self._held)
        self._locked = np.where(change, self._rng.integers(4, 10, len(BUTTONS)), self._locked)
        return self._held

    def _slide(self, turn: Float[np.ndarray, "2"], tolerance: float) -> Float[np.ndarray, "2"]:
        if not len(self._stroke):
            self._pause -= 1
            if self._pause > 0 or np.abs(turn).max() < tolerance:
                return np.zeros(2)
            self._stroke = self._plan_stroke(turn)
            self._pause = int(self._rng.integers(2, 6))
        step, self._stroke = self._stroke[0], self._stroke[1:]
        return np.round(step / MOUSE_STEP) * MOUSE_STEP

    def _plan_stroke(self, turn: Float[np.ndarray, "2"]) -> Float[np.ndarray, "steps 2"]:
        steps = int(np.clip(2.5 + np.abs(turn).max() / 6 + self._rng.normal(0, 0.7), 2, 24))
        time = (np.arange(steps) + 0.5) / steps
        speed = (time * (1 - time)) ** 2  # speed of the minimum-jerk trajectory
        wobble = speed[:, None] * (1 + self._rng.normal(0, 0.12, (steps, 2)))
        return turn * self._rng.normal(1, 0.1) * wobble / speed.sum()
