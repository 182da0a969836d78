"""Minecraft environment (MineRL v1) with the human interface of OpenAI's agent: 640x360 pixels, 20 steps per second.

This module is imported by `vector/server.py` in the interpreter that `config.game.python` names: any Python from 3.8
that has NumPy and MineRL v1 with its dependencies. MineRL cannot be installed where this was written, so the module was
tested against a stub. The statements about MineRL below are from its sources (v1.0, and its patch of Minecraft 1.16)
and have not been tried.

- **Keys**: all 24 are passed on, but ESC always as not pressed. It would end the episode in MineRL's BASALT tasks, and
  open Minecraft's menu here, which pauses the game while MineRL waits for its next frame.
- **Death** does not end an episode. MineRL puts the player back to the start, alive and without items, as soon as the
  death screen is drawn, and the next frame is from there. If MineRL nevertheless reports `done` (it polls in another
  thread whether the player is alive), it accepts no further step: the episode is then truncated, not terminated.
- **Worlds** are new in every episode. Equal seeds give equal worlds, not equal animals and monsters. (Other
  projects reset once before they seed, to make the first world use the seed; the sources show no need for that.)
- **Items** count in the inventory and the hotbar; what lies in a crafting grid, at the cursor or in the off hand does
  not. This does not affect rewards: items that return are not counted again (`rewards.py`).
- **Crafting** is counted by the game's statistics (`craft_item`), which are passed on where MineRL observes them.
- **A display** is needed, with OpenGL: `xvfb-run -a` before the command gives one to a machine that has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import numpy as np

STEPS_PER_SECOND = 20
POV_SHAPE = (360, 640, 3)
# Required by OpenAI's agent; MineRL gives the size as (width, height).
KEYS = (
    "ESC", "attack", "back", "drop", "forward", *(f"hotbar.{slot}" for slot in range(1, 10)), "inventory", "jump",
    "left", "pickItem", "right", "sneak", "sprint", "swapHands", "use",
)  # fmt: skip
SETTINGS = {
    "resolution": [640, 360],
    "fov_range": [70, 70],
    "gamma_range": [2, 2],
    "guiscale_range": [1, 1],
    "cursor_size_range": [16, 16],
    "frameskip": 1,
}
_INSTALL = (
    "MineRL v1 needs Java 8 and an old gym: 1. apt-get install openjdk-8-jdk; 2. python3 -m venv minerl-env, by a "
    "Python that its gym supports (from 3.8); 3. minerl-env/bin/pip install git+https://github.com/minerllabs/minerl; "
    "4. set config.game.python, or the argument `python` of make_env, to minerl-env/bin/python"
)
# Names in `info`, with their group and key in the observation; not every release of MineRL has all.
_STATS = {
    "health": ("life_stats", "life"),
    "food": ("life_stats", "food"),
    "breath": ("life_stats", "air"),
    "xp": ("life_stats", "xp"),
    "x": ("location_stats", "xpos"),
    "y": ("location_stats", "ypos"),
    "z": ("location_stats", "zpos"),
}


def make(seconds: float = 600.0) -> MineRLEnv:
    """Returns the environment of survival in a new world, of at most `seconds` (the paper's 10 minutes: 12,000 steps).

    Raises:
        ImportError: MineRL is not installed, cannot be imported, or is not v1; the message says how to install it.
        ValueError: its actions or frames differ from those that the agents of this library expect.
    """
    env = _human_survival()(**SETTINGS).make()
    check_spaces(env.action_space.spaces, env.observation_space.spaces)
    return MineRLEnv(env, round(seconds * STEPS_PER_SECOND))


class MineRLEnv:
    """Adapter from MineRL's old gym API to that of Gymnasium.

    An action is the dict of 24 keys: 0 or 1 each, and `camera` (pitch, yaw) in degrees, positive is down, right. The
    observation is `{"pov": uint8[360, 640, 3]}`.

    `info` has a count for every kind of item that is held, under MineRL's name (`cobblestone`, `wooden_pickaxe`); what
    is missing is not held. All kinds of logs are `log`, all kinds of planks `planks`. `crafted.ITEM` is how many have
    been crafted or smelted in this world, by the same names. Also, where MineRL observes them: health and food (20:
    full), breath (300: full), xp, and the position x, y, z (blocks). All are floats.
    """

    def __init__(self, env: Any, steps: int):
        """`env` is MineRL's environment; an episode is truncated after `steps`."""
        self._env, self._limit, self._steps = env, steps, 0
        self.action_space = env.action_space
        self.observation_space = {"pov": env.observation_space.spaces["pov"]}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Create a new world, from `seed` (0 to 2**63 - 1) or at random. The first reset takes minutes: Java starts."""
        if seed is not None:
            self._env.seed(seed)  # MineRL uses a seed for one reset only
        observation = self._env.reset()
        self._steps = 0
        return {"pov": observation["pov"]}, extract_info(observation)

    def step(self, action: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, float]]:
        """Hold keys for 1/20 s. The episode is never terminated; it is truncated at its time limit.

        Raises:
            RuntimeError: MineRL has lost its connection to Minecraft; its frames would be noise.
        """
        observation, reward, done, info = self._env.step(minerl_action(action))
        if "error" in info:
            raise RuntimeError(f"MineRL has lost its Minecraft: {info['error']}")
        self._steps += 1
        truncated = bool(done) or self._steps >= self._limit
        return {"pov": observation["pov"]}, float(reward), False, truncated, extract_info(observation)

    def close(self) -> None:
        """End Minecraft."""
        self._env.close()


def minerl_action(action: Mapping[str, Any]) -> dict[str, Any]:
    """Converts an action to MineRL's types: int keys, float32 camera, and ESC never pressed."""
    keys = {name: int(action[name]) for name in KEYS}
    return {**keys, "ESC": 0, "camera": np.asarray(action["camera"], np.float32)}


def extract_info(observation: Mapping[str, Any]) -> dict[str, float]:
    """Returns `info`: the numbers of an observation under plain names."""
    info = {
        name: float(observation[group][key])
        for name, (group, key) in _STATS.items()
        if key in observation.get(group, {})
    }
    for item, count in observation["inventory"].items():
        if count > 0:  # MineRL lists all items of the game
            kind = item_kind(item)
            info[kind] = info.get(kind, 0.0) + float(count)
    for item, count in observation.get("craft_item", {}).items():
        if count > 0:
            kind = f"crafted.{item_kind(item)}"
            info[kind] = info.get(kind, 0.0) + float(count)
    return info


def item_kind(item: str) -> str:
    """Merges the kinds of wood: `log` for `oak_log`, `planks` for `birch_planks`. Other items keep their names."""
    kind = item.rsplit("_", 1)[-1]
    return kind if kind in ("log", "planks") else item


def check_spaces(actions: Mapping[str, Any], observations: Mapping[str, Any]) -> None:
    """Raises `ValueError` if a MineRL has other keys, other frames or no inventory."""
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
        raise ValueError(f"this MineRL's frames are {dtype} of the shape {shape}, not uint8 of {POV_SHAPE}")


def _human_survival() -> Any:
    """Returns MineRL's `HumanSurvival`, after checking that it is v1."""
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
