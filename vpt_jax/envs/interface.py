"""Common interface of the environments: action space, observation space, and the types of `reset` and `step`."""

import numpy as np
from gymnasium import spaces
from jaxtyping import UInt8

from vpt_jax.actions.minerl import MINERL
from vpt_jax.actions.space import CAMERA_FIELD, ActionSpace

Observation = dict[str, UInt8[np.ndarray, "h w 3"]]
Info = dict[str, float]


def action_space(space: ActionSpace = MINERL) -> spaces.Dict:
    """Gymnasium's form of an action space; MineRL's: 23 keys, and the camera in degrees per step."""
    keys: dict[str, spaces.Space] = {name: spaces.Discrete(2) for name in sorted({*space.keys, *space.unpredicted})}
    limits = space.limits.astype(np.float32)
    return spaces.Dict(keys | {CAMERA_FIELD: spaces.Box(-limits, limits, dtype=np.float32)})


def observation_space(height: int, width: int) -> spaces.Dict:
    """The observation space of one RGB frame, `{"pov": uint8[height, width, 3]}`."""
    return spaces.Dict({"pov": spaces.Box(0, 255, (height, width, 3), np.uint8)})
