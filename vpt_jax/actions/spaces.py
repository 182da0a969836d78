"""Built-in action spaces and mappings by name, for config fields that name one or a JSON file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vpt_jax.actions.mapping import ActionMapping
from vpt_jax.actions.minerl import CAMERA, DEGREES_PER_COUNT, HOTBARS, MINERL, PHYSICAL_KEYS
from vpt_jax.actions.space import ActionSpace, ActionSpaceError, Axis

_MAX_JSON_BYTES = 2**20

WEAPONS = tuple(f"weapon.{slot}" for slot in range(1, 8))
DOOM = ActionSpace(
    name="doom",
    keys=("forward", "back", "left", "right", "run", "jump", "crouch", "attack", "use", *WEAPONS),
    axes=(Axis("pitch", "degrees", CAMERA), Axis("yaw", "degrees", CAMERA, mirrored=True)),
    groups=(WEAPONS, ("forward", "back"), ("left", "right")),
    cancelling=(("forward", "back"), ("left", "right")),
    mirrored=(("left", "right"),),
)
"""Doom's own actions: strafing is `left` and `right`, turning is `yaw`, and a weapon is chosen by its slot."""

SPACES: Mapping[str, ActionSpace] = {space.name: space for space in (MINERL, DOOM)}

_SAME = {key: key for key in ("forward", "back", "left", "right", "jump", "attack", "use")}
_MINERL_TO_DOOM = (
    _SAME | {"sprint": "run", "sneak": "crouch"} | dict(zip(HOTBARS, WEAPONS, strict=False))  # two slots have no weapon
)
_CAMERA_AXES = tuple((axis.name, axis.name, 1.0) for axis in MINERL.axes)
MAPPINGS: Mapping[str, ActionMapping] = {
    "minerl-to-doom": ActionMapping(tuple(_MINERL_TO_DOOM.items()), _CAMERA_AXES),
    "doom-to-minerl": ActionMapping(tuple((goal, source) for source, goal in _MINERL_TO_DOOM.items()), _CAMERA_AXES),
    # Recordings of keyboard and mouse, played with Minecraft's default keys at the sensitivity of OpenAI's recorder.
    "keyboard-to-minerl": ActionMapping(
        tuple((PHYSICAL_KEYS[name], name) for name in MINERL.keys),
        (("mouse.x", "yaw", DEGREES_PER_COUNT), ("mouse.y", "pitch", DEGREES_PER_COUNT)),
    ),
}

T = TypeVar("T")


def load_space(name: str) -> ActionSpace:
    """Returns the built-in space of this name, or that of a JSON file (`ActionSpace.from_dict`).

    Raises:
        ActionSpaceError: neither exists, or the file holds no valid space; the message names it.
    """
    return _load(name, SPACES, ActionSpace.from_dict, "action space")


def load_mapping(name: str) -> ActionMapping:
    """Returns the built-in mapping of this name, or that of a JSON file (`ActionMapping.from_dict`).

    Raises:
        ActionSpaceError: neither exists, or the file holds no valid mapping; the message names it.
    """
    return _load(name, MAPPINGS, ActionMapping.from_dict, "action mapping")


def _load(name: str, built_in: Mapping[str, T], parse: Callable[[Any], T], kind: str) -> T:
    if name in built_in:
        return built_in[name]
    path = Path(name).expanduser()
    if not path.is_file():
        raise ActionSpaceError(
            f"there is no {kind} {name!r}: built in are {', '.join(built_in)}; another one is the path of a JSON file"
        )
    with path.open("rb") as file:
        data = file.read(_MAX_JSON_BYTES + 1)
    if len(data) > _MAX_JSON_BYTES:
        raise ActionSpaceError(f"{path} is larger than {_MAX_JSON_BYTES:,} bytes, and thus no {kind}")
    try:
        return parse(json.loads(data))
    except (ValueError, RecursionError) as error:  # ValueError: no JSON or UTF-8, or `ActionSpaceError`
        raise ActionSpaceError(f"{path} holds no valid {kind}: {error}") from error
