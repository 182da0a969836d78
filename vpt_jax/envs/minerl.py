"""Minecraft (MineRL v1) behind the human interface, as OpenAI's agent plays it: 640x360 pixels, 20 steps a second.

This module runs in the interpreter that `config.game.python` names, which `game_server.py` starts: any Python from 3.8
that has NumPy and MineRL v1 with what it needs. MineRL cannot be installed where this was written, so the module was
tested against a stub of it. What is said of MineRL here was read in its sources (v1.0, and its patch of Minecraft
1.16) and has not been tried.

- **Keys**: all 24 are passed on, but ESC always as not pressed. It would end the episode in MineRL's BASALT tasks, and
  here open Minecraft's menu, in which the game stands still and MineRL waits for its next picture.
- **Death** does not end an episode. MineRL puts the player back to the start, alive and without items, as soon as the
  death screen is drawn, and the next picture is from there. Should MineRL nevertheless say that it is done (it looks
  whether the player lives, in another thread), it takes no further step: the episode is then cut, not terminated.
- **Worlds** are new in every episode. Equal seeds give equal worlds, not equal animals and monsters. (Scripts of
  others reset once before they seed, so that the first world heeds it; nothing in the sources says that it would not.)
- **Items** count in the inventory and the hotbar; what lies in a crafting grid, at the cursor or in the off hand does
  not. Rewards do not mind: what comes back is not obtained once more (`rewards.py`).
- **Crafting** is counted by the game's statistics (`craft_item`), which are passed on where MineRL observes them.
- **A display** is needed, with OpenGL: `xvfb-run -a` before the command gives one to a machine that has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

from vpt_jax.envs.vector.server import KEYS

STEPS_PER_SECOND = 20
POV_SHAPE = (360, 640, 3)
# What OpenAI's agent demands; MineRL calls the size (width, height).
SETTINGS = {
    "resolution": [640, 360],
    "fov_range": [70, 70],
    "gamma_range": [2, 2],
    "guiscale_range": [1, 1],
    "cursor_size_range": [16, 16],
    "frameskip": 1,
}
_INSTALL = (
    "MineRL v1 needs Java 8 (openjdk-8-jdk) and an old gym: make a virtual environment for it, run "
    "`pip install git+https://github.com/minerllabs/minerl` there, and set config.game.python to its interpreter"
)
# Names in `info`, and where observations have them; not every release of MineRL has all.
_STATS = {
    "health": ("life_stats", "life"),
    "food": ("life_stats", "food"),
    "breath": ("life_stats", "air"),
    "xp": ("life_stats", "xp"),
    "x": ("location_stats", "xpos"),
    "y": ("location_stats", "ypos"),
    "z": ("location_stats", "zpos"),
}


def make(seconds: float = 600.0) -> MineRLGame:
    """Survival in a new world, for `seconds` of the game at most (the paper's ten minutes are 12,000 steps).

    Raises:
        ImportError: MineRL is not installed, cannot be imported, or is not v1; the message says how to get it.
        ValueError: its actions or pictures are not those that the agents of this library know.
    """
    env = _human_survival()(**SETTINGS).make()
    check_spaces(env.action_space.spaces, env.observation_space.spaces)
    return MineRLGame(env, round(seconds * STEPS_PER_SECOND))


class MineRLGame:
    """MineRL's old environment with Gymnasium's methods.

    An action is the dict of 24 keys: 0 or 1 each, and `camera` (pitch, yaw) in degrees, positive is down, right. The
    observation is `{"pov": uint8[360, 640, 3]}`.

    `info` has a count for every kind of item that is held, under MineRL's name (`cobblestone`, `wooden_pickaxe`); what
    is missing is not held. All kinds of logs are `log`, all kinds of planks `planks`. `crafted.ITEM` is how many have
    been crafted or smelted in this world, by the same names. Also, where MineRL tells: health and food (20: full),
    breath (300: full), xp, and the position x, y, z (blocks). All are floats.
    """

    def __init__(self, env: Any, steps: int):
        """`env` as MineRL makes it; an episode is cut after `steps`."""
        self._env, self._limit, self._steps = env, steps, 0
        self.action_space = env.action_space
        self.observation_space = {"pov": env.observation_space.spaces["pov"]}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """A new world: that of the seed (0 to 2**63 - 1), or any. Takes minutes the first time, when Java starts."""
        if seed is not None:
            self._env.seed(seed)  # good for one reset, as MineRL has it
        observation = self._env.reset()
        self._steps = 0
        return {"pov": observation["pov"]}, info_of(observation)

    def step(self, action: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, float]]:
        """Hold keys for 1/20 s. The episode is never terminated; it is truncated at the end of its time.

        Raises:
            RuntimeError: MineRL has lost its Minecraft. It would show noise for a picture then.
        """
        observation, reward, done, notes = self._env.step(sent(action))
        if "error" in notes:
            raise RuntimeError(f"MineRL has lost its Minecraft: {notes['error']}")
        self._steps += 1
        truncated = bool(done) or self._steps >= self._limit
        return {"pov": observation["pov"]}, float(reward), False, truncated, info_of(observation)

    def close(self) -> None:
        """End Minecraft."""
        self._env.close()


def sent(action: Mapping[str, Any]) -> dict[str, Any]:
    """What MineRL is told: whole numbers and float32, and never ESC."""
    keys = {name: int(action[name]) for name in KEYS}
    return {**keys, "ESC": 0, "camera": np.asarray(action["camera"], np.float32)}


def info_of(observation: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in an observation, by plain names."""
    info = {
        name: float(observation[group][key])
        for name, (group, key) in _STATS.items()
        if key in observation.get(group, {})
    }
    for item, count in observation["inventory"].items():
        if count > 0:  # MineRL lists all items of the game
            kind = kind_of(item)
            info[kind] = info.get(kind, 0.0) + float(count)
    for item, count in observation.get("craft_item", {}).items():
        if count > 0:
            kind = f"crafted.{kind_of(item)}"
            info[kind] = info.get(kind, 0.0) + float(count)
    return info


def kind_of(item: str) -> str:
    """`log` for `oak_log`, `planks` for `birch_planks`: any wood will do. Other items keep their names."""
    kind = item.rsplit("_", 1)[-1]
    return kind if kind in ("log", "planks") else item


def check_spaces(actions: Mapping[str, Any], observations: Mapping[str, Any]) -> None:
    """Raises `ValueError` where a MineRL has other keys, other pictures or no inventory."""
    differing = set(actions) ^ {*KEYS, "camera"}
    if differing:
        raise ValueError(f"this MineRL's actions are not those of v1.0: they differ in {', '.join(sorted(differing))}")
    camera = actions["camera"]
    if tuple(camera.shape) != (2,) or np.any(np.asarray(camera.low) != -180) or np.any(np.asarray(camera.high) != 180):
        raise ValueError("this MineRL's camera is not two angles of -180 to 180 degrees")
    missing = {"pov", "inventory"} - set(observations)
    if missing:
        raise ValueError(f"this MineRL's observations lack {', '.join(sorted(missing))}")
    shape, dtype = tuple(observations["pov"].shape), np.dtype(observations["pov"].dtype)
    if shape != POV_SHAPE or dtype != np.uint8:
        raise ValueError(f"this MineRL's pictures are {dtype} of the shape {shape}, not uint8 of {POV_SHAPE}")


def _human_survival() -> Any:
    """MineRL's class, if it is that of v1."""
    try:
        version = metadata.version("minerl")
    except metadata.PackageNotFoundError:
        raise ImportError(f"MineRL is not installed. {_INSTALL}") from None
    if version.startswith("0."):
        raise ImportError(f"MineRL {version} (PyPI's) is an older, different game. {_INSTALL}")
    try:
        from minerl.herobraine.env_specs.human_survival_specs import HumanSurvival
    except ImportError as error:
        raise ImportError(f"MineRL {version} cannot be imported: {error}. {_INSTALL}") from error
    return HumanSurvival
