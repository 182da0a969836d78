"""Paths as users give them: tilde expansion (`~`), and rejection of URLs such as `gs://bucket/run` in their place.

The shell does not expand a `~` after `=`, in quotes and in tuples. No program here opens an object store or a web
server by a path: `pathlib` would interpret a URL as the relative folder `gs:/bucket/run`, and a run's checkpoints would
be written to a disk that is lost with its pod.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from vpt_jax.system.errors import UserError

_TEXT_FIELDS = {"search", "terms", "reject_words"}  # config fields that hold text, not paths
# Config fields that hold no path, or may hold a URL: the accepted schemes of each (None: not checked).
URL_FIELDS: dict[str, tuple[str, ...] | None] = {
    "contractor.index": ("http", "https", "file"),
    "urls": None,
    **dict.fromkeys(_TEXT_FIELDS),
    "beam.options": None,  # a runner in the cloud has its own staging folders in a bucket
    "game.cluster": ("ray",),
    "distributed.coordinator": None,
}

_KNOWN_SCHEMES = "gs|s3|s3a|az|abfs|abfss|wasbs|adl|oci|r2|hdfs|hf|http|https|ftp|sftp|file"
# A scheme and two slashes anywhere (as in NAME=gs://...), or the one slash that `pathlib` leaves of a known scheme's.
_URL = re.compile(rf"(?:([A-Za-z][A-Za-z0-9+.-]*)://|(?:^|[=/,'\"\s])({_KNOWN_SCHEMES}):/)(.*)", re.DOTALL)

_COPY = "; results are copied the other way round, after the run"
_REMEDIES = {
    "gs": "mount the bucket (gcsfuse {host} FOLDER) and give the path in FOLDER, or give a local path and copy with "
    "gcloud storage cp --recursive gs://{rest} FOLDER" + _COPY,
    "s3": "mount the bucket (mount-s3 {host} FOLDER) and give the path in FOLDER, or give a local path and copy with "
    "aws s3 cp --recursive s3://{rest} FOLDER" + _COPY,
    "http": "download it (curl --location --remote-name {scheme}://{rest}) and give the local path",
    "file": "give the path alone, without file://",
}
_REMEDIES["https"] = _REMEDIES["ftp"] = _REMEDIES["http"]
_DEFAULT_REMEDY = "mount it as a folder or copy it to this machine, and give the local path"

# `~`, `~/PATH` or `~USER/PATH`, alone or as NAME=~/PATH; not words with a tilde in them.
_HOME = re.compile(r"(?P<before>(?:[\w.-]+=)?)(?P<path>~(?:[A-Za-z_][\w.-]*)?(?:/.*)?)", re.DOTALL)
_FLAG = re.compile(r"(?P<flag>--?[\w.]+=)(?P<value>~.*)", re.DOTALL)


class NoHomeError(UserError, ValueError):
    """A path that begins with the home folder of an unknown user; the message names it."""


class RemotePathError(UserError, ValueError):
    """A URL of an object store or a web server in place of a local path; the message names the remedy."""


def local_path(path: str | Path, name: str = "the path") -> Path:
    """Validate that `path` is a local path, and return it.

    Args:
        path: as given by the user.
        name: the name used in the error message, such as `config.workdir`.

    Raises:
        RemotePathError: it is a URL such as `gs://bucket/run`, or its form after `pathlib`, `gs:/bucket/run`.
    """
    if found := _URL.search(str(path)):
        scheme, rest = (found[1] or found[2]).lower(), found[3].lstrip("/")
        remedy = _REMEDIES.get(scheme, _DEFAULT_REMEDY).format(scheme=scheme, host=rest.split("/")[0], rest=rest)
        message = f"{name} is {str(path)!r}, which is not a local path: {remedy}"
        raise RemotePathError(" ".join(message.split()))
    return Path(path)


def refuse_remote_paths(config: Any) -> None:
    """Check every text in a `ConfigDict`, nested fields and tuples included, except for `URL_FIELDS`.

    Raises:
        RemotePathError: a field holds a URL; the message names it.
    """
    for field, text in _texts(config.to_dict()):
        _refuse(field, text)


def refuse_remote_settings(arguments: Iterable[str]) -> None:
    """Check the `--config.FIELD=VALUE` arguments of a command line that another machine will run.

    Raises:
        RemotePathError: a field holds a URL; the message names it.
    """
    for argument in arguments:
        field, _, value = argument.lstrip("-").partition("=")
        if field.startswith("config"):
            _refuse(field.removeprefix("config").lstrip("."), value)


def _refuse(field: str, text: str) -> None:
    schemes = URL_FIELDS.get(field, ())
    if schemes is None or text.lower().startswith(tuple(f"{scheme}:" for scheme in schemes)):
        return
    local_path(text, f"config.{field}" if field else "--config")


def _texts(value: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Pairs of field name and text, for every text in a nested config value."""
    if isinstance(value, str | Path):
        yield field, str(value)
    elif isinstance(value, Mapping):
        for name in value:
            yield from _texts(value[name], f"{field}.{name}" if field else str(name))
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _texts(item, field)


def expand_home(text: str, name: str) -> str:
    """Replace a leading `~` or `~USER` by the home folder; other text is returned unchanged.

    Args:
        text: a path, or NAME=PATH, or any other text.
        name: the name used in the error message, such as `config.out`.

    Raises:
        NoHomeError: there is no such user, or the home folder is unknown.
    """
    if not (found := _HOME.fullmatch(text)):
        return text
    try:
        return found["before"] + str(Path(found["path"]).expanduser())
    except RuntimeError as error:
        raise NoHomeError(
            f"{name} is {text!r}, and there is no home folder of that name: give the whole path, or ./~ for a folder "
            "that is called so"
        ) from error


def expand_argument(argument: str) -> str:
    """Expand `~` in a command-line argument `--FLAG=~/PATH`: shells do not. Errors as `expand_home`."""
    if found := _FLAG.fullmatch(argument):
        if found["flag"].strip("-=").rpartition(".")[2] in _TEXT_FIELDS:
            return argument
        return found["flag"] + expand_home(found["value"], found["flag"].rstrip("="))
    return argument


def expand_config(config: ConfigDict, field: str = "config") -> None:
    """Expand `~` in all text fields of a config in place, including tuples. Errors as `expand_home`."""
    for name in config:
        value, full = config[name], f"{field}.{name}"
        if isinstance(value, ConfigDict):
            expand_config(value, full)
        elif name in _TEXT_FIELDS:
            continue
        elif isinstance(value, str):
            config[name] = expand_home(value, full)
        elif isinstance(value, tuple | list):
            config[name] = type(value)(_expand_item(item, full) for item in value)


def _expand_item(item: Any, name: str) -> Any:
    """Item of a tuple with `~` expanded: a text, or a mapping with texts, as of `config.data.mixture`."""
    if isinstance(item, Mapping):
        return {field: _expand_item(value, f"{name}.{field}") for field, value in item.items()}
    return expand_home(item, name) if isinstance(item, str) else item
