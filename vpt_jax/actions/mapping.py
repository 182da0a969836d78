"""Mapping of actions from one space to another: which key is which, and by which factor an axis moves.

A mapping is data, a JSON object, as in

    {"keys": {"w": "forward", "space": "jump", "mouse.left": "attack"},
     "axes": {"mouse.x": {"to": "yaw", "factor": 0.15}, "mouse.y": {"to": "pitch", "factor": 0.15}}}

It maps the names of a recorder to those of a game's action space, or one game's space to another's. Several sources may
go to one target: a key is down if any of its sources is, an axis sums its sources. What is not named is dropped.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Float32, UInt8

from vpt_jax.actions.space import ActionSpace, ActionSpaceError

MAX_FACTOR = 1e9


@dataclass(frozen=True)
class ActionMapping:
    """Mapping of keys and axes by name."""

    keys: tuple[tuple[str, str], ...] = ()  # (source key, target key)
    axes: tuple[tuple[str, str, float], ...] = ()  # (source axis, target axis, factor)

    @classmethod
    def identity(cls, keys: Iterable[str], axes: Iterable[str]) -> Self:
        """Mapping of every name to itself."""
        return cls(tuple((key, key) for key in keys), tuple((axis, axis, 1.0) for axis in axes))

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Makes a mapping from JSON values.

        Raises:
            ActionSpaceError: a field is unknown or has another type; the message names it.
        """
        if not isinstance(values, dict) or not set(values) <= {"keys", "axes"}:
            raise ActionSpaceError("an action mapping is a JSON object with `keys` and `axes`")
        keys, axes = values.get("keys", {}), values.get("axes", {})
        if not isinstance(keys, dict) or not all(isinstance(target, str) for target in keys.values()):
            raise ActionSpaceError("action mapping: `keys` must be an object of names, source to target")
        if not isinstance(axes, dict):
            raise ActionSpaceError("action mapping: `axes` must be an object")
        found = []
        for source, axis in axes.items():
            factor = axis.get("factor", 1.0) if isinstance(axis, dict) else None
            if not isinstance(axis, dict) or not set(axis) <= {"to", "factor"} or not isinstance(axis.get("to"), str):
                raise ActionSpaceError(f'action mapping: axis {source!r} must be {{"to": TARGET, "factor": NUMBER}}')
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not abs(factor) <= MAX_FACTOR:
                raise ActionSpaceError(f"action mapping: `factor` of axis {source!r} is not a number up to a billion")
            found.append((source, axis["to"], float(factor)))
        return cls(tuple(keys.items()), tuple(found))

    def to_dict(self) -> dict[str, Any]:
        """JSON values, from which `from_dict` makes an equal mapping."""
        axes = {source: {"to": target, "factor": factor} for source, target, factor in self.axes}
        return json.loads(json.dumps({"keys": dict(self.keys), "axes": axes}))

    def require_targets(self, space: ActionSpace) -> None:
        """Raises `ActionSpaceError` if a target is not in the space; the message names all of them."""
        unknown = {target for _, target in self.keys} - set(space.keys)
        unknown |= {target for _, target, _ in self.axes} - set(space.axis_index)
        if unknown:
            raise ActionSpaceError(
                f"the action mapping goes to {', '.join(sorted(unknown))}, which the action space {space.name!r} lacks"
            )

    def require_sources(self, space: ActionSpace) -> None:
        """Raises `ActionSpaceError` if a source is not in the space; the message names all of them."""
        unknown = {source for source, _ in self.keys} - set(space.keys)
        unknown |= {source for source, *_ in self.axes} - set(space.axis_index)
        if unknown:
            raise ActionSpaceError(
                f"the action mapping is of {', '.join(sorted(unknown))}, which the action space {space.name!r} lacks"
            )

    def matrices(
        self, source_keys: Mapping[str, int], source_axes: Mapping[str, int], target: ActionSpace
    ) -> tuple[UInt8[np.ndarray, "source_keys keys"], Float[np.ndarray, "source_axes axes"]]:
        """Matrices that map arrays of the source's keys and axes (position by name); absent sources are ignored."""
        self.require_targets(target)
        keys = np.zeros((len(source_keys), len(target.keys)), np.uint8)
        axes = np.zeros((len(source_axes), len(target.axes)))
        for name, goal in self.keys:
            if name in source_keys:
                keys[source_keys[name], target.key_index[goal]] = 1
        for name, goal, factor in self.axes:
            if name in source_axes:
                axes[source_axes[name], target.axis_index[goal]] += factor
        return keys, axes

    def apply(
        self,
        source: ActionSpace,
        target: ActionSpace,
        buttons: UInt8[np.ndarray, "n source_keys"],
        camera: Float[np.ndarray, "n source_axes"],
    ) -> tuple[UInt8[np.ndarray, "n keys"], Float32[np.ndarray, "n axes"]]:
        """Maps raw actions of one space to another; movements are clipped to the target's limits."""
        keys, axes = self.matrices(source.key_index, source.axis_index, target)
        held = (np.asarray(buttons, np.int64) @ keys > 0).astype(np.uint8)
        moved = np.asarray(camera, np.float64) @ axes
        return held, np.clip(moved, -target.limits, target.limits).astype(np.float32)
