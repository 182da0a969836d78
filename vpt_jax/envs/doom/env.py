"""Doom environment (ViZDoom with the free Freedoom levels) with the MineRL human interface: keys and mouse, RGB frames.

An action is MineRL's 24-key dict, held for one step of 1/20 s; with `space="doom"`, one of the keys of `spaces.DOOM`.
Its effects:

- attack, use, forward, back, left, right and jump do the same in Doom; sneak crouches, sprint runs;
- hotbar.1 ... hotbar.9 choose the weapon in that slot;
- camera turns by (pitch, yaw) degrees, positive is down, right; the view stops at 32 degrees up and 56 down;
- drop, inventory, ESC, swapHands and pickItem have no counterpart in Doom and do nothing.

Doom runs at 35 tics/s, so every four steps last 2, 2, 2 and 1 tics. An episode ends when the player dies or leaves
the level; `gymnasium.wrappers.TimeLimit` ends it earlier. The reward is that of the level's own script: 0 on
Freedoom levels. Tasks compute their own from `info` (`rewards.py`).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import cv2
import gymnasium
import numpy as np
import vizdoom
from jaxtyping import UInt8

from vpt_jax.actions.spaces import SPACES
from vpt_jax.envs.doom.engine import KEYS, KEYS_OF_SPACE, Engine
from vpt_jax.envs.doom.level import level_file
from vpt_jax.envs.interface import Info, Observation, action_space, observation_space
from vpt_jax.video import FRAME_RATE

TICS_PER_STEP = (2, 2, 2, 1)
MODES = ((256, 144), (320, 180), (400, 225), (512, 288), (640, 360), (1024, 576), (1280, 720), (1920, 1080))
_INFO = {
    "health": "HEALTH", "armor": "ARMOR", "weapon": "SELECTED_WEAPON", "ammo": "SELECTED_WEAPON_AMMO",
    "kills": "KILLCOUNT", "items": "ITEMCOUNT", "secrets": "SECRETCOUNT", "hits": "HITCOUNT",
    "damage_dealt": "DAMAGECOUNT", "damage_taken": "DAMAGE_TAKEN", "x": "POSITION_X", "y": "POSITION_Y",
    "z": "POSITION_Z", "angle": "ANGLE", "pitch": "PITCH",
}  # fmt: skip
_INFO |= {f"{kind.lower()}.{slot}": f"{kind}{slot}" for kind in ("WEAPON", "AMMO") for slot in range(1, 8)}
_INFO_VARIABLES = {name: vizdoom.GameVariable.__members__[variable] for name, variable in _INFO.items()}


class DoomEnv(gymnasium.Env[Any, dict[str, Any]]):
    """One level of Doom (a name of `level.LEVELS`). After `reset(seed=...)`, equal actions give equal frames.

    With `fresh=False` one engine plays all episodes: a reset takes 0.03 s instead of 0.3, and the frames also depend on
    the earlier episodes. Equal runs remain reproducible.

    The observation is `{"pov": uint8[height, width, 3]}`, rendered at the smallest 16:9 mode that covers it and
    resized, so that every size has the same field of view. `skill` is Doom's, 1 (easiest) to 5.

    `info` holds health, armor, weapon (slot), ammo (of that weapon), weapon.1 ... weapon.7 (owned or not), ammo.1 ...
    ammo.7, kills, items, secrets, hits, damage_dealt, damage_taken, the position x, y, z (map units; the player is 56
    tall), angle (degrees, counter-clockwise) and pitch (degrees, positive is down), all as float.

    Raises:
        ValueError: no such level, a size without a mode, or a skill out of range.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FRAME_RATE}  # noqa: RUF012 - Gymnasium's own name
    render_mode = "rgb_array"

    def __init__(
        self, level: str, height: int = 360, width: int = 640, skill: int = 2, objects: bool = False,
        fresh: bool = True, space: str = "minerl",
    ):  # fmt: skip
        level_file(level)
        if not 1 <= skill <= 5:
            raise ValueError(f"Doom's skill is 1 to 5, not {skill}")
        if space not in KEYS_OF_SPACE:
            raise ValueError(f"Doom's action space is {' or '.join(KEYS_OF_SPACE)}, not {space!r}")
        self._keys = tuple(KEYS_OF_SPACE[space])
        self.level, self._size, self._fresh = level, (height, width), fresh
        self.action_space = action_space(SPACES[space])
        self.observation_space = observation_space(height, width)
        self._make_engine = partial(Engine, level, skill=skill, mode=screen_mode(height, width), objects=objects)
        self._engine: Engine | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Restart the level. Without a seed the episode follows from the earlier ones, as in Gymnasium."""
        super().reset(seed=seed)
        engine_seed = int(self.np_random.integers(1, 2**32))
        if self._engine and not self._fresh:
            self._engine.restart(engine_seed)
        else:
            self.close()
            self._engine = self._make_engine(seed=engine_seed)
        self._steps = 0
        self._update_frame()
        return {"pov": self._pov}, self._info()

    def step(self, action: Mapping[str, Any]) -> tuple[Observation, float, bool, bool, Info]:
        """Hold `action` for 1/20 s. At the end of the episode, the observation is its last frame.

        Raises:
            RuntimeError: the episode is over, or has not started.
        """
        if self._game.is_episode_finished():
            raise RuntimeError("the Doom episode is over: call reset() first")
        tics = TICS_PER_STEP[self._steps % len(TICS_PER_STEP)]
        reward = self._game.make_action(doom_buttons(action, tics, self._keys), tics)
        self._steps += 1
        self._update_frame()
        return {"pov": self._pov}, reward, self._game.is_episode_finished(), False, self._info()

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the current frame."""
        return self._pov

    def objects(self) -> list[vizdoom.Object]:
        """Returns all objects of the level with name, category and position; needs `objects=True` at construction."""
        return self._state.objects if self._state else []

    def close(self) -> None:
        """Close the engine; `reset` starts another."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @property
    def _game(self) -> vizdoom.DoomGame:
        if self._engine is None:
            raise RuntimeError("the Doom episode has not started: call reset() first")
        return self._engine.game

    def _update_frame(self) -> None:
        self._state = self._game.get_state()
        if self._state is not None:  # there is none once the episode is over
            self._pov = _downscale(self._state.screen_buffer, *self._size)

    def _info(self) -> Info:
        return {name: self._game.get_game_variable(variable) for name, variable in _INFO_VARIABLES.items()}


def _downscale(frame: UInt8[np.ndarray, "_h _w 3"], height: int, width: int) -> UInt8[np.ndarray, "_h _w 3"]:
    """Downscale by area averaging, so that a turning view does not flicker."""
    return cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)


def screen_mode(height: int, width: int) -> str:
    """Returns ViZDoom's name of the smallest 16:9 mode that covers the size.

    Raises:
        ValueError: the size is not positive, or larger than the largest mode.
    """
    for mode_width, mode_height in MODES:
        if 0 < height <= mode_height and 0 < width <= mode_width:
            return f"RES_{mode_width}X{mode_height}"
    raise ValueError(f"cannot render {width}x{height}: sizes go from 1x1 to {MODES[-1][0]}x{MODES[-1][1]}")


def doom_buttons(action: Mapping[str, Any], tics: int, names: Sequence[str] = tuple(KEYS)) -> list[float]:
    """Returns the engine's buttons for an action of `tics`: keys, then degrees per tic to pitch up and turn right.

    `names` are the action's keys, in the engine's order.
    """
    pitch, yaw = np.asarray(action.get("camera", (0, 0)), np.float64)
    keys = [float(action.get(name, 0)) for name in names]
    return [*keys, -pitch / tics, yaw / tics]  # the engine repeats the turn on every tic
