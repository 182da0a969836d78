"""MineRL's human action space, the paper's: 20 keys, and the camera in degrees per step with 11 mu-law bins per axis.

Positive degrees are down (pitch) and right (yaw). The joint form has 8,641 button classes and 121 camera classes; all
tables equal those of the reference (`lib/actions.py`, `lib/action_mapping.py`).
"""

from vpt_jax.actions.quantizer import AxisQuantizer
from vpt_jax.actions.space import CAMERA_FIELD, ActionSpace, Axis

HOTBARS = tuple(f"hotbar.{slot}" for slot in range(1, 10))
CAMERA = AxisQuantizer()
PITCH, YAW = 0, 1
MINERL = ActionSpace(
    name="minerl",
    keys=(
        "attack", "back", "forward", "jump", "left", "right", "sneak", "sprint", "use", "drop", "inventory", *HOTBARS,
    ),
    axes=(Axis("pitch", "degrees", CAMERA), Axis("yaw", "degrees", CAMERA, mirrored=True)),
    groups=(
        HOTBARS, ("forward", "back"), ("left", "right"), ("sprint", "sneak"), ("use",), ("drop",), ("attack",),
        ("jump",),
    ),
    cancelling=(("forward", "back"), ("left", "right")),
    alone=("inventory",),
    unpredicted=("ESC", "pickItem", "swapHands"),
    mirrored=(("left", "right"),),
)  # fmt: skip
BUTTONS, BUTTON_INDEX = MINERL.keys, MINERL.key_index
ENV_KEYS = (*sorted({*BUTTONS, *MINERL.unpredicted}), CAMERA_FIELD)
DEGREES_PER_COUNT = 360 / 2400  # of the mouse of OpenAI's recorder
PHYSICAL_KEYS = {
    "forward": "w", "back": "s", "left": "a", "right": "d", "jump": "space", "sneak": "left_shift",
    "sprint": "left_control", "drop": "q", "inventory": "e", "swapHands": "f", "ESC": "escape",
    "attack": "mouse.left", "use": "mouse.right", "pickItem": "mouse.middle",
} | {name: str(slot) for slot, name in enumerate(HOTBARS, 1)}  # fmt: skip
"""Minecraft's default key for each key, by the names of `data/bridges/key_names.py`."""
