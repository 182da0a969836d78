"""Luanti environment (the voxel game once called Minetest, with minetest_game) with the MineRL human interface.

The game runs on a virtual screen of its own, in real time: it takes real key presses and mouse moves, 20 steps per
second, and continues between steps. An action is the 24-key dict of `actions.minerl.ENV_KEYS`, held until the next:

- forward, back, left, right, jump and sneak do the same; sprint with forward runs 1.3 times as fast, as in Minecraft;
- attack is the left mouse button: it digs the node under the crosshair. use is the right one: it places, opens;
- hotbar.1 ... hotbar.9 select the wielded item; drop throws the whole stack, or with sneak one item of it;
- camera turns by (pitch, yaw) degrees, positive is down, right; a pixel of the mouse is 0.15 degrees; the
  remainder, and any turn beyond the size of the screen (26, 46 degrees), follows in the next step;
- inventory opens the inventory screen, which has the crafting grid, and closes it or any other; ESC closes a screen,
  and does nothing else. While a screen is open, attack and use click, then the camera moves the pointer; sneak is the
  shift key, and all other keys do nothing;
- pickItem and swapHands have no counterpart in Luanti and do nothing.

After death the player respawns at once where the episode began; the items carried stay at the place of death. An
episode has no end of its own: `gymnasium.wrappers.TimeLimit` sets one. The reward is 0; tasks compute theirs from
`info`.

It needs Debian's packages minetest (5.6) and xvfb, and two cores. The game starts at the first `reset`.
"""

import time
from collections.abc import Mapping
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium.wrappers import TimeLimit
from jaxtyping import UInt8

from vpt_jax.envs.interface import Info, Observation, action_space, observation_space
from vpt_jax.envs.luanti.controls import Controls
from vpt_jax.envs.luanti.game import HEIGHT, WIDTH, LuantiProcess, check_installed
from vpt_jax.video import FRAME_RATE, draw_cursor

_MIN_LATENCY = 0.03  # seconds between an action and its observation: the game renders a frame or two


def make(seconds: float = 600.0, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """Returns the environment, with a time limit of `seconds`; the other arguments are those of `LuantiEnv`."""
    return TimeLimit(LuantiEnv(**arguments), round(seconds * FRAME_RATE))


class LuantiEnv(gymnasium.Env[Any, dict[str, Any]]):
    """Luanti's world, at another place in every episode. It runs in real time, so episodes are not reproducible.

    The observation is `{"pov": uint8[height, width, 3]}`: the game's 360x640 pixels downscaled, with the mouse
    pointer while a screen is open.

    `info` holds, all as float: the position x, y, z (y is up, a node is 1), yaw (degrees clockwise from +z, 0 to 360),
    pitch (degrees, positive is down), health (of 20), gui_open (0 or 1), slot (the hotbar's, from 1), dug and deaths
    (nodes dug, deaths died in this episode), seconds (since the previous observation: nominally 0.05), and how many
    of each item are carried: log, planks, stick, crafting_table, wooden_pickaxe, cobblestone, stone_pickaxe, furnace,
    coal, torch, iron_ore, iron_ingot, iron_pickaxe, diamond, diamond_pickaxe.

    Raises:
        RecordError: Luanti or Xvfb is not installed.
        ValueError: the size is not positive, or larger than 360x640.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": FRAME_RATE}  # noqa: RUF012 - Gymnasium's own name
    render_mode = "rgb_array"

    def __init__(self, height: int = HEIGHT, width: int = WIDTH):
        check_installed()
        if not (0 < height <= HEIGHT and 0 < width <= WIDTH):
            raise ValueError(f"cannot render {width}x{height}: sizes go from 1x1 to {WIDTH}x{HEIGHT}")
        self._size = height, width
        self.action_space = action_space()
        self.observation_space = observation_space(height, width)
        self._running: LuantiProcess | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Start on fresh open ground in the morning, in full health: equal seeds give equal places.

        Without a seed the place follows from the earlier ones, as in Gymnasium. `options["inventory"]` maps Luanti's
        item names to numbers, `{"default:tree": 1}`; empty by default.

        Raises:
            LuantiError: the game does not start or does not answer.
        """
        super().reset(seed=seed)
        if self._running is None:
            self._running = LuantiProcess()
            self._controls = Controls(self._running.screen)
        self._controls.release()
        self._game.reset(int(self.np_random.integers(2**31)), (options or {}).get("inventory", {}))
        self._controls.tap("1")  # only a key can select the wielded item, the mod cannot
        self._game.wait_for_stable_frame()
        self._step_due = self._observed_at = time.monotonic()
        return self._observe()

    def step(self, action: Mapping[str, Any]) -> tuple[Observation, float, bool, bool, Info]:
        """Apply `action`, and observe 1/20 s after the previous observation, or later if the caller takes over 20 ms.

        Raises:
            RuntimeError: the episode has not started.
            LuantiError: the game has ended.
        """
        self._game.check()
        self._step_due = max(self._step_due + 1 / FRAME_RATE, time.monotonic() + _MIN_LATENCY)
        self._controls.act(action, self._step_due - time.monotonic())
        time.sleep(max(0, self._step_due - time.monotonic()))
        observation, info = self._observe()
        return observation, 0.0, False, False, info

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """Returns the current frame."""
        return self._pov

    def close(self) -> None:
        """End the game; `reset` starts another process."""
        if self._running is not None:
            self._running.close()
            self._running = None

    @property
    def _game(self) -> LuantiProcess:
        if self._running is None:
            raise RuntimeError("the Luanti episode has not started: call reset() first")
        return self._running

    def _observe(self) -> tuple[Observation, Info]:
        frame, pointer = self._game.screen.screenshot(), self._game.screen.pointer()
        before, self._observed_at = self._observed_at, time.monotonic()
        if pointer.visible:
            frame = frame.copy()
            draw_cursor(frame, pointer.x, pointer.y)
        self._pov = cv2.resize(frame, self._size[::-1], interpolation=cv2.INTER_AREA)
        state = self._game.state()
        view = {"yaw": -state["yaw"] % 360, "gui_open": pointer.visible, "seconds": self._observed_at - before}
        return {"pov": self._pov}, {name: float(value) for name, value in (state | view).items() if name != "episode"}
