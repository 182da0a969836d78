"""Validation of a dataset's metadata, `features.json` and `dataset_info.json`, before TFDS uses them.

TFDS imports any module that `features.json` names, and opens shards at the paths that `dataset_info.json` gives. A
folder of data must not choose code or paths. So the features must be those of this library, and of the rest only
numbers are used.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import json_format
from tensorflow_datasets.core.features import FeaturesDict

from vpt_jax.data.errors import DatasetDamagedError

_MAX_FEATURES_BYTES = 2**16  # those written here have 3 kB
_MAX_INFO_BYTES = 2**26  # 25 per shard
_FIELDS = {"description", "disableShuffling", "fileFormat", "name", "splits", "version"}  # the fields that are written
_SPLIT_FIELDS = {"filepathTemplate", "name", "numBytes", "shardLengths"}
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class SplitFiles(NamedTuple):
    """Shards of a split, as listed in `dataset_info.json`."""

    shard_lengths: tuple[int, ...]  # records per shard
    num_bytes: int  # total of all shards


def check_features(dataset_dir: Path, features: FeaturesDict) -> None:
    """Raises `DatasetDamagedError` if `features.json` describes anything but `features`."""
    file = dataset_dir / "features.json"
    if _read(file, _MAX_FEATURES_BYTES) != json_format.MessageToDict(features.to_proto()):
        raise DatasetDamagedError(
            f"{file} does not describe the features that this library writes, and nothing in it is used: TFDS would "
            "import the Python modules that it names. Prepare the dataset again, or get it from a source that you trust"
        )


def read_version(dataset_dir: Path) -> str:
    """Version of a dataset's layout; empty if `dataset_info.json` states none."""
    info = _read(dataset_dir / "dataset_info.json", _MAX_INFO_BYTES)
    version = info.get("version") if isinstance(info, dict) else None
    return version if isinstance(version, str) else ""


def read_splits(dataset_dir: Path, name: str, versions: Collection[str]) -> dict[str, SplitFiles]:
    """Reads the shards of every split from `dataset_info.json`.

    Args:
        dataset_dir: the dataset.
        name: TFDS name of the dataset.
        versions: of the layout, that can be read.

    Raises:
        DatasetDamagedError: the file is not as this library writes it.
    """
    file = dataset_dir / "dataset_info.json"
    info = _read(file, _MAX_INFO_BYTES)
    wanted = {"disableShuffling": True, "fileFormat": "array_record", "name": name}
    try:
        _require(isinstance(info, dict), "it is not an object")
        _require(set(info) <= _FIELDS, f"it has other fields: {_names(set(info) - _FIELDS)}")
        for field, value in wanted.items():
            _require(info.get(field) == value, f"{field} is not {value!r}")
        _require(info.get("version") in versions, f"version is not one of {', '.join(versions)}")
        splits = [_read_split(split) for split in _list_of(info, "splits")]
    except _InvalidError as error:
        raise DatasetDamagedError(
            f"{file} is not as this library writes it: {error}. Prepare the dataset again, or download it again"
        ) from error
    return dict(splits)


class _InvalidError(Exception):
    """Metadata that this library did not write."""


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise _InvalidError(problem)


def _names(fields: set[str]) -> str:
    return ", ".join(map(repr, sorted(fields)))


def _list_of(value: Mapping[str, Any], field: str) -> list[Any]:
    _require(isinstance(found := value.get(field, []), list), f"{field} is not a list")
    return found


def _read_split(split: Any) -> tuple[str, SplitFiles]:
    _require(isinstance(split, dict), "a split is not an object")
    _require(set(split) <= _SPLIT_FIELDS, f"a split has other fields: {_names(set(split) - _SPLIT_FIELDS)}")
    _require(split.get("filepathTemplate") == _TEMPLATE, f"filepathTemplate is not {_TEMPLATE!r}")
    _require(isinstance(name := split.get("name"), str), "a split has no name")
    lengths = tuple(_count(length, "shardLengths") for length in _list_of(split, "shardLengths"))
    return name, SplitFiles(lengths, _count(split.get("numBytes", "0"), "numBytes"))


def _count(value: Any, field: str) -> int:
    """Parses a 64-bit integer, which Protobuf's JSON format stores as text."""
    _require(isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19, f"{field}: {value!r}")
    return int(value)


def _read(file: Path, limit: int) -> Any:
    """Reads a JSON file of at most `limit` bytes."""
    if not file.is_file():  # opening a named pipe would block
        raise DatasetDamagedError(f"{file} is missing: prepare the dataset again, or download it again")
    with file.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise DatasetDamagedError(
            f"{file} is larger than {limit:,} bytes: prepare the dataset again, or download it again"
        )
    try:
        return json.loads(data)
    except (RecursionError, ValueError) as error:  # ValueError: invalid JSON or UTF-8, or too many digits
        raise DatasetDamagedError(
            f"{file} is not valid JSON: {error}. Prepare the dataset again, or download it again"
        ) from error
