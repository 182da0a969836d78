"""Joint (hierarchical) form of actions: one class of buttons and one of camera movement (paper, appendix C.2).

The button class enumerates the Cartesian product of the space's groups of exclusive keys, the last varying fastest:
`groups` in order, then every key in no group as a group of its own, then "the camera moves". Keys of `alone` follow, a
class each. The camera class enumerates the bins of all axes. For `MINERL`: 8,641 and 121 classes, as in the reference
(`lib/action_mapping.py`). Conversions are table look-ups on whole arrays, of NumPy or JAX, also under `jit`.
"""

from functools import lru_cache
from itertools import product
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vpt_jax.actions.quantizer import Array, namespace
from vpt_jax.actions.space import CAMERA_FIELD, ActionSpace, ActionSpaceError

MAX_CLASSES = 2**16  # of a joint head


class JointAction(NamedTuple):
    """One choice of the joint action space per step (`MINERL`: `buttons` in [0, 8641), `camera` in [0, 121))."""

    buttons: Int[Array, "..."]
    camera: Int[Array, "..."]


class JointTables(NamedTuple):
    """The classes of a space."""

    buttons: UInt8[np.ndarray, "classes keys"]  # keys of each button class
    has_camera: Bool[np.ndarray, " classes"]  # whether the camera moves in each button class
    keeps_camera: Bool[np.ndarray, " classes"]  # whether its camera class counts when it is converted back
    camera_classes: int
    null_camera: int  # the camera class of no movement


def num_classes(space: ActionSpace) -> tuple[int, int]:
    """Number of button classes and of camera classes; an integer of any size, since nothing is enumerated."""
    buttons = 1
    for group in _groups(space):
        buttons *= len(group) + 1
    return buttons + len(space.alone), space.num_bins ** len(space.axes)


@lru_cache(maxsize=16)
def joint_tables(space: ActionSpace) -> JointTables:
    """The tables of a space.

    Raises:
        ActionSpaceError: there are more than `MAX_CLASSES` classes; the message names the other heads.
    """
    if max(counts := num_classes(space)) > MAX_CLASSES:
        raise ActionSpaceError(
            f"action space {space.name!r} has {counts[0]:,} joint button classes and {counts[1]:,} camera classes, and "
            f"a joint head may have {MAX_CLASSES:,}: use config.model.head=autoregressive or factored, or put keys "
            "that exclude each other into groups"
        )
    groups, index = _groups(space), space.key_index
    buttons = np.zeros((counts[0], len(space.keys)), np.uint8)
    has_camera = np.zeros(counts[0], bool)
    for row, pressed in enumerate(product(*((None, *keys) for keys in groups))):
        buttons[row, [index[key] for key in pressed if key in index]] = 1
        has_camera[row] = CAMERA_FIELD in pressed
    first_alone = counts[0] - len(space.alone)
    for row, key in enumerate(space.alone, first_alone):
        buttons[row, index[key]] = 1
    null_camera = space.null_bin * sum(space.num_bins**axis for axis in range(len(space.axes)))
    keeps = has_camera | (np.arange(counts[0]) >= first_alone)
    return JointTables(buttons, has_camera, keeps, counts[1], null_camera)


def _groups(space: ActionSpace) -> tuple[tuple[str, ...], ...]:
    grouped = {key for group in space.groups for key in group} | set(space.alone)
    single = tuple((key,) for key in space.keys if key not in grouped)
    return (*space.groups, *single, *([(CAMERA_FIELD,)] if space.axes else []))


def joint_from_factored(
    space: ActionSpace, buttons: UInt8[Array, "... keys"], bins: Int[Array, "... axes"]
) -> JointAction:
    """Joint class of every factored action. Mutually exclusive keys are resolved by the rules of the space's groups."""
    xp, tables = namespace(buttons), joint_tables(space)
    moves = (bins != space.null_bin).any(-1)
    classes = xp.zeros(moves.shape, int)
    for keys in _groups(space):
        classes = classes * (len(keys) + 1) + (moves if keys == (CAMERA_FIELD,) else _choice(space, buttons, keys))
    camera = xp.zeros(moves.shape, int)
    for axis in range(len(space.axes)):
        camera = camera * space.num_bins + bins[..., axis]
    for number, key in enumerate(space.alone):
        held = buttons[..., space.key_index[key]] > 0
        classes = xp.where(held, len(tables.buttons) - len(space.alone) + number, classes)
        camera = xp.where(held, tables.null_camera, camera)
    return JointAction(classes, camera)


def _choice(space: ActionSpace, buttons: UInt8[Array, "... keys"], keys: tuple[str, ...]) -> Int[Array, "..."]:
    """Index of the key that counts among mutually exclusive `keys`: 0 for none, i for the i-th."""
    held = buttons[..., np.array([space.key_index[key] for key in keys])] > 0
    choice = (held * np.arange(1, len(keys) + 1)).max(-1)
    return choice * ~held.all(-1) if keys in space.cancelling else choice


def factored_from_joint(
    space: ActionSpace, action: JointAction
) -> tuple[UInt8[Array, "... keys"], Int[Array, "... axes"]]:
    """Buttons and bins of every joint action.

    A button class without camera means no movement, whatever the camera class; only a key of `alone` keeps the camera
    class, as `inventory` does in the reference.
    """
    xp, tables = namespace(action.buttons), joint_tables(space)
    buttons = xp.take(tables.buttons, action.buttons, axis=0)
    moves = xp.take(tables.keeps_camera, action.buttons, axis=0)
    camera = xp.where(moves, action.camera, tables.null_camera)
    bins = []
    for _ in space.axes:
        bins.append(camera % space.num_bins)
        camera = camera // space.num_bins
    empty = xp.zeros((*action.camera.shape, 0), action.camera.dtype)
    return buttons, xp.stack(bins[::-1], axis=-1) if bins else empty


def joint_from_raw(
    space: ActionSpace, buttons: UInt8[Array, "... keys"], camera: Float[Array, "... axes"]
) -> JointAction:
    """Joint class of every raw action."""
    return joint_from_factored(space, buttons, space.to_bins(camera))


def raw_from_joint(
    space: ActionSpace, action: JointAction
) -> tuple[UInt8[Array, "... keys"], Float[Array, "... axes"]]:
    """Buttons, and movement at the middle of the camera's bins, of every joint action."""
    buttons, bins = factored_from_joint(space, action)
    return buttons, space.to_movement(bins)
