"""Luanti (the voxel game once called Minetest, with its game minetest_game) behind the MineRL human interface.

The game runs on a virtual screen of its own, in real time: it takes true key presses and mouse moves, 20 steps a
second, and goes on while nobody steps. An action is the 24-key dict of `actions.ENV_KEYS`, held until the next:

- forward, back, left, right, jump and sneak do the same; sprint with forward runs 1.3 times as fast, as in Minecraft;
- attack is the left mouse button: it digs what the cross in the middle is on. use is the right one: it places, opens;
- hotbar.1 ... hotbar.9 choose what is in the hand; drop throws the whole stack, or with sneak one item of it;
- camera turns by (pitch, yaw) degrees, positive is down, right; a pixel of the mouse is 0.15 degrees, and what is
  left over, or is more than the screen has room for (26, 46 degrees), follows in the next step;
- inventory opens the inventory screen, where things are crafted, and closes it or any other; ESC closes a screen, and
  does nothing else. While a screen is open, attack and use click, then the camera moves the pointer; sneak is the shift
  key, and all other keys do nothing;
- pickItem and swapHands have no counterpart in Luanti and do nothing.

The dead come back at once where the episode began; what they carried lies where they died. An episode has no end of
its own: `gymnasium.wrappers.TimeLimit` gives it one. The reward is 0; tasks make their own from `info`.

It needs Debian's packages minetest (5.6) and xvfb, and two cores. Nothing starts before the first `reset`.
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
from vpt_jax.envs.luanti.game import HEIGHT, WIDTH, Game, check_installed
from vpt_jax.video import FRAME_RATE, draw_cursor

_REACTION = 0.03  # seconds between an action and its picture, at least: the game draws a frame or two


def make(seconds: float, **arguments: Any) -> gymnasium.Env[Any, Any]:
    """An episode of `seconds` at most; the other arguments are those of `LuantiEnv`."""
    return TimeLimit(LuantiEnv(**arguments), round(seconds * FRAME_RATE))


class LuantiEnv(gymnasium.Env[Any, dict[str, Any]]):
    """The world of Luanti, on other ground every episode. It plays in real time, so no two episodes are equal.

    The observation is `{"pov": uint8[height, width, 3]}`: the game's 360x640 pixels made smaller, with the mouse
    pointer while a screen is open.

    `info` holds, all as float: the position x, y, z (y is up, a node is 1), yaw (degrees clockwise from +z, 0 to 360),
    pitch (degrees, positive is down), health (of 20), gui_open (0 or 1), slot (the hotbar's, from 1), dug and deaths
    (nodes dug, deaths died in this episode), seconds (from the picture before to this one: 0.05 in time), and how many
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
        self._running: Game | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, Info]:
        """Begin on fresh open ground in the morning, in full health: equal seeds, equal places.

        Without a seed the place follows from the earlier ones, as Gymnasium has it. `options["inventory"]` is what the
        player carries, as Luanti's item names with numbers, `{"default:tree": 1}`; nothing by default.

        Raises:
            GameError: the game does not start or does not answer.
        """
        super().reset(seed=seed)
        if self._running is None:
            self._running = Game()
            self._controls = Controls(self._running.screen)
        self._controls.release()
        self._game.reset(int(self.np_random.integers(2**31)), (options or {}).get("inventory", {}))
        self._controls.tap("1")  # only keys choose what is in the hand, our mod cannot
        self._game.wait_for_picture()
        self._due = self._seen = time.monotonic()
        return self._look()

    def step(self, action: Mapping[str, Any]) -> tuple[Observation, float, bool, bool, Info]:
        """Do `action`, and see the world 1/20 s after the picture before, or later if the caller needs over 20 ms.

        Raises:
            RuntimeError: the episode has not begun.
            GameError: the game has ended.
        """
        self._game.check()
        self._due = max(self._due + 1 / FRAME_RATE, time.monotonic() + _REACTION)
        self._controls.act(action, self._due - time.monotonic())
        time.sleep(max(0, self._due - time.monotonic()))
        observation, info = self._look()
        return observation, 0.0, False, False, info

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """The current picture."""
        return self._pov

    def close(self) -> None:
        """End the game; `reset` starts another."""
        if self._running is not None:
            self._running.close()
            self._running = None

    @property
    def _game(self) -> Game:
        if self._running is None:
            raise RuntimeError("the Luanti episode has not begun: call reset() first")
        return self._running

    def _look(self) -> tuple[Observation, Info]:
        picture, pointer = self._game.screen.picture(), self._game.screen.pointer()
        before, self._seen = self._seen, time.monotonic()
        if pointer.visible:
            picture = picture.copy()
            draw_cursor(picture, pointer.x, pointer.y)
        self._pov = cv2.resize(picture, self._size[::-1], interpolation=cv2.INTER_AREA)
        state = self._game.state()
        view = {"yaw": -state["yaw"] % 360, "gui_open": pointer.visible, "seconds": self._seen - before}
        return {"pov": self._pov}, {name: float(value) for name, value in (state | view).items() if name != "episode"}
