"""Common interface of the environments: action space, observation space, and the types of `reset` and `step`."""

import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8

from vpt_jax.actions.minerl import ENV_KEYS

Observation = dict[str, UInt8[np.ndarray, "h w 3"]]
Info = dict[str, float]


def action_space() -> spaces.Dict:
    """The MineRL v1 human action space: 23 keys, and the camera in degrees per step."""
    keys: dict[str, spaces.Space] = {name: spaces.Discrete(2) for name in ENV_KEYS if name != "camera"}
    return spaces.Dict(keys | {"camera": spaces.Box(-180, 180, (2,), np.float32)})


def observation_space(height: int, width: int) -> spaces.Dict:
    """The observation space of one RGB frame, `{"pov": uint8[height, width, 3]}`."""
    return spaces.Dict({"pov": spaces.Box(0, 255, (height, width, 3), np.uint8)})
