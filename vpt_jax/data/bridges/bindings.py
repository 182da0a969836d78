"""Bindings of an action space: the physical key of each key, and the axis of the mouse that moves each axis.

Formats of keyboards and mice have no "attack" and no "yaw". Names of physical keys are bound to themselves, MineRL's to
Minecraft's default keys, and the user binds all others.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from vpt_jax.actions.minerl import DEGREES_PER_COUNT, PHYSICAL_KEYS
from vpt_jax.actions.space import ActionSpace
from vpt_jax.data.bridges.exported import ExportError
from vpt_jax.data.bridges.key_names import KEYS, MOUSE_AXES, MOUSE_X, MOUSE_Y, VIRTUAL_KEYS

# The code of either side where Windows has one for both as well.
CODES = {name: code for code, name in sorted(VIRTUAL_KEYS.items())}
_AXES = {"yaw": MOUSE_X, "pitch": MOUSE_Y} | {name: name for name in MOUSE_AXES}


class Bindings(NamedTuple):
    """Physical names by names of an action space."""

    keys: dict[str, str]
    axes: dict[str, str]
    units_per_count: dict[str, float]  # of each axis: movement per count of the mouse


def make_bindings(space: ActionSpace, given: Mapping[str, str], degrees_per_count: float = 0.0) -> Bindings:
    """Bindings of all keys and axes.

    Args:
        space: of the dataset.
        given: by the user: physical keys and mouse axes by names of the space. They precede the defaults.
        degrees_per_count: of axes in degrees; 0: that of OpenAI's recorder.

    Raises:
        ExportError: a key or axis has no binding, an unknown one, or that of another one.
    """
    axes = [axis.name for axis in space.axes]
    if unknown := given.keys() - {*space.keys, *axes}:
        names = ", ".join([*space.keys, *axes])
        raise ExportError(f"config.bindings: the dataset's actions have no {sorted(unknown)[0]!r}, only: {names}")
    bound_keys = _bind("key", space.keys, given, _default_key, lambda name: name in CODES)
    bound_axes = _bind("axis", axes, given, lambda name: _AXES.get(name, ""), lambda name: name in MOUSE_AXES)
    degrees = degrees_per_count or DEGREES_PER_COUNT
    units = {axis.name: degrees if axis.unit == "degrees" else 1.0 for axis in space.axes}
    return Bindings(bound_keys, bound_axes, units)


def parse_bindings(text: str) -> dict[str, str]:
    """Bindings as a user writes them: `forward=w,attack=mouse.left`. Raises `ExportError`."""
    given: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, bound = part.partition("=")
        if not (equals and name.strip() and bound.strip()):
            raise ExportError(f"config.bindings: {part!r} is not NAME=KEY, as in forward=w,attack=mouse.left")
        given[name.strip()] = bound.strip()
    return given


def _default_key(name: str) -> str:
    return PHYSICAL_KEYS.get(name) or (name if name in CODES else "")


def _bind(
    kind: str,
    names: tuple[str, ...] | list[str],
    given: Mapping[str, str],
    default: Callable[[str], str],
    is_known: Callable[[str], bool],
) -> dict[str, str]:
    bound = {name: given.get(name) or default(name) for name in names}
    if missing := [name for name, physical in bound.items() if not physical]:
        example = f"--config.bindings={missing[0]}={'mouse.x' if kind == 'axis' else 'w'}"
        raise ExportError(f"no physical {kind} is known for {', '.join(missing)}: give one for each, as in {example}")
    for name, physical in bound.items():
        if not is_known(physical):
            known = ", ".join(MOUSE_AXES if kind == "axis" else sorted({*KEYS} & {*CODES}))
            raise ExportError(f"config.bindings: {name} is bound to {physical!r}, and known are: {known}")
    owners: dict[str, str] = {}
    for name, physical in bound.items():
        if (owner := owners.setdefault(physical, name)) != name:
            raise ExportError(f"{owner} and {name} are both bound to {physical!r}: give other --config.bindings")
    return bound
