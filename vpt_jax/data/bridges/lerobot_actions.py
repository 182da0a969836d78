"""Actions of a LeRobot dataset as keys and axes, by the names that `features` gives to the elements of its vectors.

All number features that are named "action" or "action.SOMETHING" are read. Which of their elements are keys:

1. Those that `meta/vpt.json` lists, if the dataset has this file:
   `{"keys": {"ITS NAME": "w", ...}, "axes": {"turn": "mouse.x"}}`, or lists of names. Others are dropped.
2. Otherwise those with the names of keys and mouse axes in `key_names.py`, and all elements of a bool feature.
3. Of the rest, those that are 0 or 1 in the whole dataset. So an axis that never moves counts as a key that is never
   pressed, which makes the same actions.

A vector without names gives "action.0", "action.1" and so on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float64

from vpt_jax.data.bridges.event_list import EventList
from vpt_jax.data.bridges.interface import InputEvents
from vpt_jax.data.bridges.key_names import KEYS, MOUSE_AXES
from vpt_jax.data.bridges.lerobot_layout import INFO, SIDECAR, Layout
from vpt_jax.recording import BrokenRecordingError

MAX_ELEMENTS = 2000
_NUMBERS = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32",
            "float64")  # fmt: skip


class Element(NamedTuple):
    """An element of an action vector."""

    feature: str
    name: str
    is_bool: bool


class Roles(NamedTuple):
    """Meaning of each element: the name of a key or an axis, or ""."""

    keys: tuple[str, ...]
    axes: tuple[str, ...]


def elements_of(layout: Layout) -> list[Element]:
    """All elements of a dataset's actions, in the order of its features. Raises `BrokenRecordingError`."""
    elements: list[Element] = []
    for key, feature in layout.features.items():
        if (key == "action" or key.startswith("action.")) and feature.get("dtype") in _NUMBERS:
            size = _size(layout, key, feature)
            names = _flat_names(feature.get("names"))
            if len(names) != size:
                names = [key if size == 1 else f"{key}.{number}" for number in range(size)]
            elements += [Element(key, name, feature["dtype"] == "bool") for name in names]
    where = layout.folder / INFO
    if not elements:
        raise BrokenRecordingError(where, "missing field", "`features` has no action of numbers")
    all_names = [element.name for element in elements]
    if len(set(all_names)) < len(all_names):
        repeated = next(name for name in all_names if all_names.count(name) > 1)
        raise BrokenRecordingError(where, "bad value", f"two elements of the action are named {repeated[:100]!r}")
    return elements


def _size(layout: Layout, key: str, feature: Mapping[str, Any]) -> int:
    shape = feature.get("shape")
    if not isinstance(shape, list) or len(shape) != 1 or not isinstance(shape[0], int):
        detail = f"feature {key!r}: `shape` is {str(shape)[:60]!r}, and vectors are read"
        raise BrokenRecordingError(layout.folder / INFO, "bad value", detail)
    if not 1 <= shape[0] <= MAX_ELEMENTS:
        raise BrokenRecordingError(layout.folder / INFO, "absurd size", f"feature {key!r} has {shape[0]:,} elements")
    return shape[0]


def _flat_names(names: Any) -> list[str]:
    """Names of a vector's elements: a list, or an object of lists such as {"motors": [...]}."""
    lists = list(names.values()) if isinstance(names, dict) else [names]
    flat = [name for part in lists if isinstance(part, list) for name in part]
    return flat if all(isinstance(name, str) and name for name in flat) else []


def listed_roles(layout: Layout, elements: Sequence[Element]) -> Roles | None:
    """Keys and axes by `meta/vpt.json`; None if it lists neither. Raises `BrokenRecordingError`."""
    keys, axes = (_listed(layout, field) for field in ("keys", "axes"))
    if keys is None and axes is None:
        return None
    keys, axes = keys or {}, axes or {}
    names = {element.name for element in elements}
    if unknown := (keys.keys() | axes.keys()) - names:
        known = ", ".join(sorted(names)[:50])
        detail = f"the dataset's actions have no {sorted(unknown)[0][:100]!r}, only: {known}"
        raise BrokenRecordingError(layout.folder / SIDECAR, "bad value", detail)
    if both := keys.keys() & axes.keys():
        raise BrokenRecordingError(layout.folder / SIDECAR, "bad value", f"{sorted(both)[0]!r} is a key and an axis")
    return Roles(*(tuple(role.get(element.name, "") for element in elements) for role in (keys, axes)))


def _listed(layout: Layout, field: str) -> dict[str, str] | None:
    values = layout.sidecar.get(field)
    if isinstance(values, list) and all(isinstance(name, str) for name in values):
        values = {name: name for name in values}
    if values is None or (isinstance(values, dict) and all(isinstance(name, str) for name in values.values())):
        return values
    detail = f"`{field}` is not a list of names, nor an object of new names by names"
    raise BrokenRecordingError(layout.folder / SIDECAR, "bad value", detail)


def is_certain(element: Element) -> bool:
    """True if an element is a key or an axis whatever its values are."""
    return element.is_bool or element.name in KEYS or element.name in MOUSE_AXES


def roles_by_values(elements: Sequence[Element], actions: Iterable[Float64[np.ndarray, "_n elements"]]) -> Roles:
    """Keys and axes by names and, where these do not say it, by the values of the whole dataset."""
    binary = np.array([element.is_bool or element.name not in MOUSE_AXES for element in elements])
    if not all(map(is_certain, elements)):
        named = np.array([is_certain(element) for element in elements])
        for rows in actions:
            binary &= named | ((rows == 0) | (rows == 1)).all(0)
    names = [(element.name, bool(is_key)) for element, is_key in zip(elements, binary, strict=True)]
    return Roles(tuple(name if key else "" for name, key in names), tuple("" if key else name for name, key in names))


def to_matrix(batch: pa.RecordBatch, elements: Sequence[Element]) -> Float64[np.ndarray, "n elements"]:
    """Actions of a batch of rows. Raises `ValueError` where a vector has another length, or a value is missing."""
    features = list(dict.fromkeys(element.feature for element in elements))
    parts = []
    for feature in features:
        size = sum(element.feature == feature for element in elements)
        column = batch.column(feature)
        values = column if not _is_list(column.type) else column.flatten()
        if values.null_count or column.null_count:
            raise ValueError(f"column {feature!r}: a value is missing")
        numbers = values.to_numpy(zero_copy_only=False)
        if numbers.dtype == object or len(numbers) != size * batch.num_rows:
            raise ValueError(f"column {feature!r} does not hold vectors of {size} numbers")
        parts.append(numbers.astype(np.float64).reshape(batch.num_rows, size))
    matrix = np.concatenate(parts, 1)
    if not np.isfinite(matrix).all():
        raise ValueError("a value is not a finite number")
    return matrix


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)


def to_events(folder: Path, actions: Float64[np.ndarray, "n elements"], roles: Roles, fps: float) -> InputEvents:
    """Presses and releases where a key's value changes, and all movements; of an episode.

    Args:
        folder: of the dataset, for errors.
        actions: of each frame.
        roles: of each element.
        fps: frames per second; frame i is at i / fps seconds.
    """
    events = EventList(folder)
    held: Bool[np.ndarray, "n elements"] = actions > 0.5
    changed = held ^ np.concatenate([np.zeros((1, held.shape[1]), bool), held[:-1]])
    for step, element in _places(changed, roles.keys):
        events.key(step / fps, roles.keys[element], bool(held[step, element]))
    for step, element in _places(actions != 0, roles.axes):
        events.move(step / fps, roles.axes[element], float(actions[step, element]))
    return events.to_events()


def _places(where: Bool[np.ndarray, "n elements"], names: Sequence[str]) -> Iterator[tuple[int, int]]:
    for step, element in np.argwhere(where & np.array([bool(name) for name in names])):
        yield int(step), int(element)
