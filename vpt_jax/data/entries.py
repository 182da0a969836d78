"""Lists of datasets in a config, such as `config.data.mixture`: entries as text or as objects, and their errors."""

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vpt_jax.system.errors import ConfigError

_NAME = re.compile(r"\w[\w.-]*")  # used in names of metrics
_NAMED = re.compile(r"(?:(?P<name>\w[\w.-]*)=)?(?P<dataset>.+)", re.DOTALL)


@dataclass(frozen=True)
class DatasetEntry:
    """Entry of a list of datasets; paths as the user gave them."""

    name: str  # of the dataset, in metrics and messages
    dataset: str  # folder
    weight: float = 1.0  # share of the batch, relative to the other entries
    mapping: str = ""  # to the run's action space: a built-in one, or a JSON file; empty: the spaces are equal
    segments: str = ""  # manifest of the seconds to use; empty: all
    minutes: float = 0.0  # of play to use; 0: all


MIXTURE_OPTIONS = ("name", "dataset", "weight", "mapping", "segments", "minutes")
VALID_OPTIONS = ("name", "dataset", "mapping")
_RANGES = {"weight": (1e-6, 1e6), "minutes": (0.0, 1e9)}


def read_entries(values: Any, field: str, options: Collection[str]) -> tuple[DatasetEntry, ...]:
    """Reads the entries of a config field, each an object of `options`, or FOLDER or NAME=FOLDER.

    Without a name, an entry has that of its folder.

    Args:
        values: of the field.
        field: its name, for messages, such as `config.data.mixture`.
        options: names of the fields that an entry may have.

    Raises:
        ConfigError: an entry is invalid, or two have the same name; the message names field and entry.
    """
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ConfigError(f"{field} is {values!r}: give a tuple of datasets")
    entries = tuple(_read_entry(value, f"{field}, entry {i}", options) for i, value in enumerate(values, 1))
    names = [entry.name for entry in entries]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{field} has two entries named {repeated[0]!r}: give each a `name` of its own")
    return entries


def _read_entry(value: Any, place: str, options: Collection[str]) -> DatasetEntry:
    if isinstance(value, str) and (found := _NAMED.fullmatch(value)):
        value = {name: text for name, text in found.groupdict().items() if text}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place} is {value!r}: give FOLDER, NAME=FOLDER, or {{'dataset': FOLDER, ...}}")
    fields = dict(value)
    if unknown := sorted(map(str, fields.keys() - set(options))):
        raise ConfigError(f"{place} has the unknown field {unknown[0]!r}; known: {', '.join(options)}")
    for name in fields.keys() & {"name", "dataset", "mapping", "segments"}:
        if not isinstance(fields[name], str):
            raise ConfigError(f"{place}: `{name}` is {fields[name]!r}, and must be a text")
    if not fields.get("dataset"):
        raise ConfigError(f"{place} has no `dataset`: give the folder of a dataset")
    name = fields.setdefault("name", os.path.basename(os.path.normpath(fields["dataset"])))
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{place}: the name {name!r} has characters other than letters, digits, _.-: give a `name`")
    for number, (low, high) in _RANGES.items():
        if number in fields and not _is_number(fields[number], low, high):
            raise ConfigError(f"{place}: `{number}` is {fields[number]!r}, and must be a number of {low:g} to {high:g}")
    return DatasetEntry(**fields)


def _is_number(value: Any, low: float, high: float) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and low <= value <= high
