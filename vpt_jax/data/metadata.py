"""Checks of a dataset's metadata, `features.json` and `dataset_info.json`, before anything acts on them.

TFDS imports whatever module `features.json` names, and looks for shards where `dataset_info.json` says. A folder of
data must not choose code or paths. So the features have to be ours, and of the rest only numbers are used.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import json_format
from tensorflow_datasets.core.features import FeaturesDict

from vpt_jax.data.errors import DatasetDamagedError

_MAX_FEATURES_BYTES = 2**16  # ours have 3 kB
_MAX_INFO_BYTES = 2**26  # of 25 for each shard
_FIELDS = {"description", "disableShuffling", "fileFormat", "name", "splits", "version"}  # all that is written
_SPLIT_FIELDS = {"filepathTemplate", "name", "numBytes", "shardLengths"}
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class SplitFiles(NamedTuple):
    """The shards of a split, by `dataset_info.json`."""

    shard_lengths: tuple[int, ...]  # records of each
    num_bytes: int  # of all shards together


def check_features(dataset_dir: Path, features: FeaturesDict) -> None:
    """Raises `DatasetDamagedError` if `features.json` describes anything but `features`."""
    file = dataset_dir / "features.json"
    if _read(file, _MAX_FEATURES_BYTES) != json_format.MessageToDict(features.to_proto()):
        raise DatasetDamagedError(
            f"{file} does not describe the features that this library writes, and nothing in it is used: TFDS would "
            "import the Python modules that it names. Make the dataset again, or get it from a source that you trust"
        )


def read_splits(dataset_dir: Path, name: str, version: str) -> dict[str, SplitFiles]:
    """The shards of every split. Raises `DatasetDamagedError` if `dataset_info.json` is not as this library writes it.

    Args:
        name: of the dataset, as TFDS has it.
        version: of the layout.
    """
    file = dataset_dir / "dataset_info.json"
    info = _read(file, _MAX_INFO_BYTES)
    wanted = {"disableShuffling": True, "fileFormat": "array_record", "name": name, "version": version}
    try:
        _require(isinstance(info, dict), "it holds no object")
        _require(set(info) <= _FIELDS, f"it has other fields: {_names(set(info) - _FIELDS)}")
        for field, value in wanted.items():
            _require(info.get(field) == value, f"{field} is not {value!r}")
        splits = [_read_split(split) for split in _list_of(info, "splits")]
    except _InvalidError as error:
        raise DatasetDamagedError(
            f"{file} is not as this library writes it: {error}. Make the dataset again, or get it again"
        ) from error
    return dict(splits)


class _InvalidError(Exception):
    """The error for metadata that are not ours."""


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise _InvalidError(problem)


def _names(fields: set[str]) -> str:
    return ", ".join(map(repr, sorted(fields)))


def _list_of(value: Mapping[str, Any], field: str) -> list[Any]:
    _require(isinstance(found := value.get(field, []), list), f"{field} is no list")
    return found


def _read_split(split: Any) -> tuple[str, SplitFiles]:
    _require(isinstance(split, dict), "a split is no object")
    _require(set(split) <= _SPLIT_FIELDS, f"a split has other fields: {_names(set(split) - _SPLIT_FIELDS)}")
    _require(split.get("filepathTemplate") == _TEMPLATE, f"filepathTemplate is not {_TEMPLATE!r}")
    _require(isinstance(name := split.get("name"), str), "a split has no name")
    lengths = tuple(_count(length, "shardLengths") for length in _list_of(split, "shardLengths"))
    return name, SplitFiles(lengths, _count(split.get("numBytes", "0"), "numBytes"))


def _count(value: Any, field: str) -> int:
    """Protobuf's JSON has 64-bit numbers as text."""
    _require(isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19, f"{field}: {value!r}")
    return int(value)


def _read(file: Path, limit: int) -> Any:
    """A JSON file of at most `limit` bytes."""
    if not file.is_file():  # a pipe would be waited for
        raise DatasetDamagedError(f"{file} is missing: make the dataset again, or get it again")
    with file.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise DatasetDamagedError(f"{file} is larger than {limit:,} bytes, and is not read")
    try:
        return json.loads(data)
    except (RecursionError, ValueError) as error:  # ValueError: of JSON, UTF-8, and numbers of thousands of digits
        raise DatasetDamagedError(f"{file} is no JSON: {error}. Make the dataset again, or get it again") from error
