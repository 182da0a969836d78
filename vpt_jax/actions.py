"""The action space of the paper: named buttons, camera bins (mu-law), and conversions between its three forms.

- **raw**: `buttons` uint8 `[..., 20]` (1 = held during the step) and `camera` degrees `[..., 2]` (pitch, yaw per step;
  positive is down, right). This form is stored.
- **factored**: the same buttons, and the camera as one bin of 11 per axis. The inverse dynamics model predicts it.
- **joint**: one button class of 8,641 and one camera class of 121. The policy predicts it (paper, appendix C.2).

Conversions are table look-ups on whole arrays; they take NumPy or JAX arrays, also under `jit`, and return the same
kind. The tables equal those of the reference (`lib/actions.py`, `lib/action_mapping.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

Array = Any  # np.ndarray or jax.Array; recording and labelling use this module without JAX

HOTBARS = tuple(f"hotbar.{slot}" for slot in range(1, 10))
BUTTONS = (
    "attack", "back", "forward", "jump", "left", "right", "sneak", "sprint", "use", "drop", "inventory", *HOTBARS,
)  # fmt: skip
BUTTON_INDEX = {name: i for i, name in enumerate(BUTTONS)}
ENV_ONLY_BUTTONS = ("ESC", "pickItem", "swapHands")  # keys a game accepts, but no model predicts
ENV_KEYS = (*sorted({*BUTTONS, *ENV_ONLY_BUTTONS}), "camera")
PITCH, YAW = 0, 1


@dataclass(frozen=True)
class CameraQuantizer:
    """Quantizes camera degrees per step to `2 * max_degrees / bin_size + 1` bins; the middle bin is no movement.

    Degrees are clipped to `max_degrees`, compressed by the mu-law (not with `mu=None`), and rounded half to even.
    Binning compares with thresholds, so float32 input gets the same bin from NumPy and inside a jitted function.
    """

    max_degrees: int = 10
    bin_size: int = 2
    mu: float | None = 10

    @property
    def num_bins(self) -> int:
        """Bins per axis."""
        return 2 * self.max_degrees // self.bin_size + 1

    @property
    def null_bin(self) -> int:
        """The bin of no movement."""
        return self.num_bins // 2

    def to_bins(self, degrees: Float[Array, "..."]) -> Int[Array, "..."]:
        """Bin of every angle; NumPy in, NumPy out (int64), JAX in, JAX out (int32)."""
        thresholds = self.thresholds if isinstance(degrees, np.ndarray) else self._thresholds_float32
        return (degrees[..., None] >= thresholds).sum(-1)

    def to_degrees(self, bins: Int[Array, "..."]) -> Float[Array, "..."]:
        """Angle at the middle of every bin."""
        return _namespace(bins).take(self.centres, bins, axis=0)

    @cached_property
    def centres(self) -> Float[np.ndarray, " bins"]:
        """Degrees at the middle of every bin."""
        level = np.arange(self.num_bins) * self.bin_size - float(self.max_degrees)
        if self.mu is None:
            return level
        share = np.abs(level) / self.max_degrees
        return np.sign(level) * self.max_degrees * ((1 + self.mu) ** share - 1) / self.mu

    @cached_property
    def thresholds(self) -> Float[np.ndarray, " thresholds"]:
        """The smallest float64 that falls in bin 1, 2, ...; found by bisection, so exact to the last bit."""
        return np.array([_first_at_least(self._bin, k, *self.centres[k - 1 : k + 1]) for k in range(1, self.num_bins)])

    @cached_property
    def _thresholds_float32(self) -> Float[np.ndarray, " thresholds"]:
        """The smallest float32 in each bin: a plain cast could round down and move its neighbour to another bin."""
        rounded = self.thresholds.astype(np.float32)
        return np.where(rounded < self.thresholds, np.nextafter(rounded, np.float32(np.inf)), rounded)

    def _bin(self, degrees: float) -> int:
        level = float(np.clip(degrees, -self.max_degrees, self.max_degrees))
        if self.mu is not None:
            share = np.log(1 + self.mu * abs(level / self.max_degrees)) / np.log(1 + self.mu)
            level = np.sign(level) * share * self.max_degrees
        return int(np.round((level + self.max_degrees) / self.bin_size))


def _first_at_least(function: Callable[[float], int], level: int, low: float, high: float) -> float:
    """The smallest float in (low, high] where the rising `function` has reached `level`."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if function(middle) >= level else (middle, high)
    return high


CAMERA = CameraQuantizer()  # the paper's: 11 mu-law bins per axis
NUM_CAMERA_CLASSES = CAMERA.num_bins**2
NULL_CAMERA_CLASS = CAMERA.null_bin * CAMERA.num_bins + CAMERA.null_bin


class JointAction(NamedTuple):
    """One choice of the hierarchical action space per step: `buttons` in [0, 8641), `camera` in [0, 121)."""

    buttons: Int[Array, "..."]
    camera: Int[Array, "..."]


# The button class enumerates the Cartesian product of these groups, the last varying fastest, then `inventory` alone.
# Keys of a group exclude each other: opposite directions cancel, in other groups the later key wins.
_GROUPS: tuple[tuple[str, ...], ...] = (
    HOTBARS, ("forward", "back"), ("left", "right"), ("sprint", "sneak"), ("use",), ("drop",), ("attack",), ("jump",),
    ("camera",),
)  # fmt: skip
_CANCELLING = (("forward", "back"), ("left", "right"))
INVENTORY_CLASS = int(np.prod([len(keys) + 1 for keys in _GROUPS]))
NUM_BUTTON_CLASSES = INVENTORY_CLASS + 1


def _button_tables() -> tuple[UInt8[np.ndarray, "8641 20"], Bool[np.ndarray, "8641"]]:
    buttons = np.zeros((NUM_BUTTON_CLASSES, len(BUTTONS)), np.uint8)
    has_camera = np.zeros(NUM_BUTTON_CLASSES, bool)
    for row, pressed in enumerate(product(*((None, *keys) for keys in _GROUPS))):
        buttons[row, [BUTTON_INDEX[key] for key in pressed if key in BUTTON_INDEX]] = 1
        has_camera[row] = "camera" in pressed
    buttons[INVENTORY_CLASS, BUTTON_INDEX["inventory"]] = 1
    return buttons, has_camera


CLASS_BUTTONS, CLASS_HAS_CAMERA = _button_tables()


def joint_from_factored(buttons: UInt8[Array, "... 20"], camera_bins: Int[Array, "... 2"]) -> JointAction:
    """Joint class of every factored action. Mutually exclusive keys are resolved by the rules of the groups above."""
    xp = _namespace(buttons)
    moves = (camera_bins != CAMERA.null_bin).any(-1)
    index = xp.zeros(moves.shape, int)
    for keys in _GROUPS:
        index = index * (len(keys) + 1) + (moves if keys == ("camera",) else _choice(buttons, keys))
    inventory = buttons[..., BUTTON_INDEX["inventory"]] > 0
    camera = camera_bins[..., PITCH] * CAMERA.num_bins + camera_bins[..., YAW]
    return JointAction(xp.where(inventory, INVENTORY_CLASS, index), xp.where(inventory, NULL_CAMERA_CLASS, camera))


def _choice(buttons: UInt8[Array, "... 20"], keys: tuple[str, ...]) -> Int[Array, "..."]:
    """Index of the key that counts among mutually exclusive `keys`: 0 for none, i for the i-th."""
    held = buttons[..., np.array([BUTTON_INDEX[key] for key in keys])] > 0
    choice = (held * np.arange(1, len(keys) + 1)).max(-1)
    return choice * ~held.all(-1) if keys in _CANCELLING else choice


def factored_from_joint(action: JointAction) -> tuple[UInt8[Array, "... 20"], Int[Array, "... 2"]]:
    """Buttons and camera bins of every joint action.

    A button class without camera means no movement, whatever the camera class; only `inventory` keeps the camera class,
    as in the reference.
    """
    xp = _namespace(action.buttons)
    buttons = xp.take(CLASS_BUTTONS, action.buttons, axis=0)
    moves = xp.take(CLASS_HAS_CAMERA, action.buttons, axis=0) | (action.buttons == INVENTORY_CLASS)
    camera = xp.where(moves, action.camera, NULL_CAMERA_CLASS)
    return buttons, xp.stack([camera // CAMERA.num_bins, camera % CAMERA.num_bins], axis=-1)


def joint_from_raw(buttons: UInt8[Array, "... 20"], camera: Float[Array, "... 2"]) -> JointAction:
    """The joint class of every raw action (camera in degrees)."""
    return joint_from_factored(buttons, CAMERA.to_bins(camera))


def raw_from_joint(action: JointAction) -> tuple[UInt8[Array, "... 20"], Float[Array, "... 2"]]:
    """Buttons, and degrees at the middle of the camera's bins, of every joint action."""
    buttons, camera_bins = factored_from_joint(action)
    return buttons, CAMERA.to_degrees(camera_bins)


def is_null(buttons: UInt8[Array, "... 20"], camera: Float[Array, "... 2"]) -> Bool[Array, "..."]:
    """Null actions: no button is held, and both camera bins are that of no movement, so tiny mouse moves are null.

    The factored action is tested, as in the reference (`agent.py`, `_env_action_to_agent`). Opposite keys that cancel
    each other are thus no null action, although their joint class is 0, the class of the null action.
    """
    return ~(buttons > 0).any(-1) & (CAMERA.to_bins(camera) == CAMERA.null_bin).all(-1)


def env_from_raw(buttons: UInt8[np.ndarray, "20"], camera: Float[np.ndarray, "2"]) -> dict[str, Any]:
    """The 24-key action of a MineRL v1 game: 23 keys as 0 or 1, `camera` as float degrees (pitch, yaw)."""
    action: dict[str, Any] = dict.fromkeys(ENV_ONLY_BUTTONS, 0)
    action.update({name: int(held) for name, held in zip(BUTTONS, buttons, strict=True)})
    return action | {"camera": np.asarray(camera, np.float32)}


def raw_from_env(action: Mapping[str, Any]) -> tuple[UInt8[np.ndarray, "20"], Float[np.ndarray, "2"]]:
    """Buttons and camera of a game's action dict; keys that no model predicts are ignored, absent keys are up."""
    buttons = np.array([bool(action.get(name, 0)) for name in BUTTONS], np.uint8)
    return buttons, np.asarray(action.get("camera", (0, 0)), np.float32)


def _namespace(array: Array) -> ModuleType:
    return array.__array_namespace__()
