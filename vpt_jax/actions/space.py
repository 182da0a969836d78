"""Action space of a dataset: named keys and mouse buttons, axes with units and bins, and groups of exclusive keys.

An action is stored **raw**: `buttons` uint8 `[..., keys]` (1 = held during the step) and `camera` float32
`[..., axes]`, the movement of each axis per step in its unit. Models predict its **factored** form, the same buttons
and a bin for each axis, or its **joint** form (`joint.py`). The space belongs to the dataset and travels with it into
checkpoints, labels, agents and environments; `minerl.py` has the paper's, and `mapping.py` maps actions between spaces.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from vpt_jax.actions.quantizer import Array, AxisQuantizer, namespace
from vpt_jax.system.errors import UserError

CAMERA_FIELD = "camera"  # of an environment's action dict: the movement of all axes
MAX_KEYS, MAX_AXES = 512, 8


class ActionSpaceError(UserError, ValueError):
    """An action space that is invalid, or another one than expected; the message names the field or the difference."""


@dataclass(frozen=True)
class Axis:
    """An axis of movement: the camera's pitch or yaw, a cursor's x or y, a stick."""

    name: str
    unit: str = "degrees"  # of stored values
    quantizer: AxisQuantizer = field(default_factory=AxisQuantizer)
    limit: float = 180.0  # no player moves further in a step: a larger value is damage
    mirrored: bool = False  # its sign changes in a mirrored frame (yaw, x)


@dataclass(frozen=True)
class ActionSpace:
    """Keys and axes of a game. Frozen, so that modules and jitted functions may have it as a static argument.

    Raises:
        ActionSpaceError: a name is used twice, a group names an unknown key, or axes have different numbers of bins.
    """

    name: str
    keys: tuple[str, ...]  # keys and mouse buttons, in the order of `buttons`
    axes: tuple[Axis, ...] = ()  # in the order of `camera`
    groups: tuple[tuple[str, ...], ...] = ()  # keys that exclude each other; where several are held, the last counts
    cancelling: tuple[tuple[str, ...], ...] = ()  # of these groups: opposite keys, of which none counts if all are held
    alone: tuple[str, ...] = ()  # keys that exclude all other keys and every movement
    unpredicted: tuple[str, ...] = ()  # keys that the game accepts and no model predicts; not in `keys`
    mirrored: tuple[tuple[str, str], ...] = ()  # pairs of keys that a mirrored frame exchanges (left and right)

    def __post_init__(self) -> None:
        if problem := self._problem_of_counts() or self._problem_of_names() or self._problem_of_groups():
            raise ActionSpaceError(f"action space {self.name!r}: {problem}")

    def _problem_of_counts(self) -> str:
        if not 1 <= len(self.keys) <= MAX_KEYS:
            return f"there are {len(self.keys)} keys (1 to {MAX_KEYS} are possible)"
        if len(self.axes) > MAX_AXES or len(self.unpredicted) > MAX_KEYS:
            return f"there are {len(self.axes)} axes (up to {MAX_AXES}) and {len(self.unpredicted)} unpredicted keys"
        for axis in self.axes:
            if problem := axis.quantizer.problem:
                return f"axis {axis.name!r}: {problem}"
        if len({axis.quantizer.num_bins for axis in self.axes}) > 1:
            return "axes have different numbers of bins"
        return ""

    def _problem_of_names(self) -> str:
        counts = Counter([*self.keys, *self.unpredicted, *(axis.name for axis in self.axes)])
        if repeated := [name for name, count in counts.items() if count > 1]:
            return f"a name is used twice: {_list(repeated)}"
        if CAMERA_FIELD in self.env_keys:
            return f"no name is {CAMERA_FIELD!r}, which denotes all axes together"
        return "a name is empty" if "" in counts else ""

    def _problem_of_groups(self) -> str:
        grouped = [*(key for group in self.groups for key in group), *self.alone]
        pairs = [key for pair in self.mirrored for key in pair]
        if unknown := {*grouped, *pairs} - {*self.keys}:
            return f"a group names unknown keys: {_list(unknown)}"
        if len(set(grouped)) < len(grouped) or len(set(pairs)) < len(pairs):
            return "a key is in two groups"
        if not all(self.groups):
            return "a group is empty"
        if not set(self.cancelling) <= set(self.groups) or any(len(group) < 2 for group in self.cancelling):
            return "a cancelling group is not one of `groups`, or has a single key"
        return ""

    @cached_property
    def key_index(self) -> dict[str, int]:
        """Position in `buttons` by key."""
        return {name: i for i, name in enumerate(self.keys)}

    @cached_property
    def axis_index(self) -> dict[str, int]:
        """Position in `camera` by axis."""
        return {axis.name: i for i, axis in enumerate(self.axes)}

    @property
    def num_bins(self) -> int:
        """Bins of each axis; 1 if there is no axis."""
        return self.axes[0].quantizer.num_bins if self.axes else 1

    @property
    def null_bin(self) -> int:
        """The bin of no movement, of each axis."""
        return self.num_bins // 2

    @property
    def limits(self) -> Float[np.ndarray, " axes"]:
        """Largest plausible movement per step of each axis."""
        return np.array([axis.limit for axis in self.axes], np.float64)

    @property
    def maximum(self) -> Float[np.ndarray, " axes"]:
        """Movement per step where the bins of each axis end."""
        return np.array([axis.quantizer.maximum for axis in self.axes], np.float64)

    @property
    def centres(self) -> Float[np.ndarray, "axes bins"]:
        """Movement at the middle of every bin of each axis."""
        return np.stack([axis.quantizer.centres for axis in self.axes]) if self.axes else np.zeros((0, 1))

    def to_bins(self, camera: Float[Array, "... axes"]) -> Int[Array, "... axes"]:
        """Bin of every axis; NumPy in, NumPy out (int64), JAX in, JAX out (int32)."""
        if len(quantizers := {axis.quantizer for axis in self.axes}) <= 1:
            return next(iter(quantizers), AxisQuantizer()).to_bins(camera)
        bins = [axis.quantizer.to_bins(camera[..., i]) for i, axis in enumerate(self.axes)]
        return namespace(camera).stack(bins, axis=-1)

    def to_movement(self, bins: Int[Array, "... axes"]) -> Float[Array, "... axes"]:
        """Movement of every axis at the middle of its bin, in the axis's unit."""
        if len(quantizers := {axis.quantizer for axis in self.axes}) <= 1:
            return next(iter(quantizers), AxisQuantizer()).to_values(bins)
        values = [axis.quantizer.to_values(bins[..., i]) for i, axis in enumerate(self.axes)]
        return namespace(bins).stack(values, axis=-1)

    def is_null(self, buttons: UInt8[Array, "... keys"], camera: Float[Array, "... axes"]) -> Bool[Array, "..."]:
        """Null actions: no key is held, and every axis is in the bin of no movement, so tiny movements are null.

        The factored action is tested, as in the reference (`agent.py`, `_env_action_to_agent`). Opposite keys that
        cancel each other are thus no null action, although their joint class is 0, the class of the null action.
        """
        return ~(buttons > 0).any(-1) & (self.to_bins(camera) == self.null_bin).all(-1)

    @cached_property
    def mirrored_keys(self) -> tuple[int, ...]:
        """Permutation of `buttons` in a mirrored frame."""
        partner = {a: b for pair in self.mirrored for a, b in (pair, pair[::-1])}
        return tuple(self.key_index[partner.get(key, key)] for key in self.keys)

    @property
    def mirrored_axes(self) -> Float[np.ndarray, " axes"]:
        """Factor of each axis in a mirrored frame: -1 or 1."""
        return np.array([-1.0 if axis.mirrored else 1.0 for axis in self.axes], np.float32)

    @property
    def env_keys(self) -> tuple[str, ...]:
        """Keys of an environment's action dict, without `camera`."""
        return (*self.keys, *self.unpredicted)

    def to_env(self, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> dict[str, Any]:
        """Action dict of an environment: each key as 0 or 1, and `camera`, the movement of all axes."""
        action: dict[str, Any] = dict.fromkeys(self.unpredicted, 0)
        action.update({name: int(held) for name, held in zip(self.keys, buttons, strict=True)})
        return action | {CAMERA_FIELD: np.asarray(camera, np.float32)}

    def from_env(self, action: Mapping[str, Any]) -> tuple[UInt8[np.ndarray, " keys"], Float[np.ndarray, " axes"]]:
        """Buttons and camera of an environment's action dict; other keys are ignored, absent ones are up."""
        buttons = np.array([bool(action.get(name, 0)) for name in self.keys], np.uint8)
        return buttons, np.asarray(action.get(CAMERA_FIELD, np.zeros(len(self.axes))), np.float32)

    def describe(self, buttons: UInt8[np.ndarray, " keys"], camera: Float[np.ndarray, " axes"]) -> str:
        """Description of an action: `forward, jump; yaw +2.5 degrees`."""
        keys = ", ".join(self.keys[i] for i in np.flatnonzero(buttons)) or "no key"
        moves = [
            f"{axis.name} {value:+.1f} {axis.unit}" for axis, value in zip(self.axes, camera, strict=True) if value
        ]
        return f"{keys}; {', '.join(moves) or 'still'}" if self.axes else keys

    def to_dict(self) -> dict[str, Any]:
        """JSON values, from which `from_dict` makes an equal space."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Makes a space from JSON values, such as those of `to_dict`; most fields have defaults.

        Raises:
            ActionSpaceError: a field is missing, unknown or has another type; the message names it.
        """
        if not isinstance(values, dict):
            raise ActionSpaceError("an action space is a JSON object with `name`, `keys` and `axes`")
        if unknown := set(values) - set(cls.__dataclass_fields__):
            raise ActionSpaceError(
                f"action space: unknown fields {_list(unknown)}; known: {_list(cls.__dataclass_fields__)}"
            )
        name = values.get("name")
        if not isinstance(name, str) or not name:
            raise ActionSpaceError("action space: `name` must be a text")
        axes = values.get("axes", [])
        if not isinstance(axes, list):
            raise ActionSpaceError(f"action space {name!r}: `axes` must be a list of objects")
        fields: dict[str, Any] = {"name": name, "axes": tuple(_axis(name, axis) for axis in axes)}
        for key in ("keys", "alone", "unpredicted"):
            fields[key] = _names(name, key, values.get(key, []))
        for key in ("groups", "cancelling", "mirrored"):
            if not isinstance(rows := values.get(key, []), list):
                raise ActionSpaceError(f"action space {name!r}: `{key}` must be a list of lists of keys")
            fields[key] = tuple(_names(name, key, row) for row in rows)
        if any(len(pair) != 2 for pair in fields["mirrored"]):
            raise ActionSpaceError(f"action space {name!r}: `mirrored` must be a list of pairs of keys")
        return cls(**fields)

    def require_equal(self, other: "ActionSpace", this: str, that: str) -> None:
        """Raises `ActionSpaceError` with the differences from another space; `this` and `that` name their owners."""
        if differences := self.differences(other):
            raise ActionSpaceError(
                f"{this} has the action space {self.name!r}, and {that} has {other.name!r}: {'; '.join(differences)}. "
                "Use data and a model of one space, or map the data (`mapping` in the entries of config.data.mixture)"
            )

    def differences(self, other: "ActionSpace") -> list[str]:
        """Differences from another space, in words; none if models of one serve the other (names may differ)."""
        if replace(self, name="") == replace(other, name=""):
            return []
        found = []
        for kind, mine, theirs in (
            ("keys", self.keys, other.keys),
            ("axes", tuple(axis.name for axis in self.axes), tuple(axis.name for axis in other.axes)),
        ):
            if set(mine) != set(theirs):
                parts = {"only the first has": set(mine) - set(theirs), "only the second has": set(theirs) - set(mine)}
                found += [f"{kind}: {words} {_list(names)}" for words, names in parts.items() if names]
            elif mine != theirs:
                found.append(f"{kind} are in another order")
        shared = {axis.name: axis for axis in other.axes}
        found += [
            f"axis {axis.name}: {axis} against {shared[axis.name]}"
            for axis in self.axes
            if axis.name in shared and axis != shared[axis.name]
        ]
        for key in ("groups", "cancelling", "alone", "unpredicted", "mirrored"):
            if getattr(self, key) != getattr(other, key):
                found.append(f"{key} differ")
        return found


def _axis(space: str, values: Any) -> Axis:
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise ActionSpaceError(f"action space {space!r}: an axis is an object with `name`, and may have others")
    fields: dict[str, Any] = {"unit": str, "limit": (int, float), "mirrored": bool}
    quantizer = values.get("quantizer", {})
    numbers: dict[str, Any] = {"maximum": (int, float), "bin_size": (int, float), "mu": (int, float, type(None))}
    where = f"action space {space!r}, axis {values['name']!r}"
    if not isinstance(quantizer, dict):
        raise ActionSpaceError(f"{where}: `quantizer` must be an object")
    for found, types in ((values, fields | {"name": str, "quantizer": dict}), (quantizer, numbers)):
        if unknown := set(found) - set(types):
            raise ActionSpaceError(f"{where}: unknown fields {_list(unknown)}; known: {_list(types)}")
        for key, value in found.items():
            if not isinstance(value, types[key]) or (isinstance(value, bool) and types[key] is not bool):
                raise ActionSpaceError(f"{where}: `{key}` is {value!r}")
            if isinstance(value, int | float) and not isinstance(value, bool) and not 1e-6 <= value <= 1e6:
                raise ActionSpaceError(f"{where}: `{key}` is {value!r}, and must be from a millionth to a million")
    given = {key: values[key] for key in fields if key in values}
    return Axis(values["name"], quantizer=AxisQuantizer(**quantizer), **given)


def _names(space: str, key: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ActionSpaceError(f"action space {space!r}: `{key}` must be a list of names")
    return tuple(values)


def _list(names: Sequence[str] | set[str] | Mapping[str, Any]) -> str:
    return ", ".join(sorted(names))
