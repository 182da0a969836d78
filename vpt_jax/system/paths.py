"""Refuses addresses such as `gs://bucket/run` where a path of this machine is needed, with the command that helps.

No program here opens an object store or a web server by such a path: `pathlib` would take it for the relative folder
`gs:/bucket/run`, and a run's checkpoints would lie on a disk that is lost with its pod.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

# Config fields that hold no path, or may hold a URL: the schemes that each takes (None: it is not looked at).
URL_FIELDS: dict[str, tuple[str, ...] | None] = {
    "contractor.index": ("http", "https", "file"),
    "urls": None,
    "search": None,
    "terms": None,
    "reject_words": None,
    "beam.options": None,  # a runner in the cloud has its own staging folders there
    "game.cluster": ("ray",),
    "distributed.coordinator": None,
}

_STORES = "gs|s3|s3a|az|abfs|abfss|wasbs|adl|oci|r2|hdfs|hf|http|https|ftp|sftp|file"
# A scheme and two slashes anywhere (as in NAME=gs://...), or the one slash that `pathlib` leaves of a known scheme's.
_URL = re.compile(rf"(?:([A-Za-z][A-Za-z0-9+.-]*)://|(?:^|[=/,'\"\s])({_STORES}):/)(.*)", re.DOTALL)

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
_OTHERWISE = "mount it as a folder or copy it to this machine, and give the local path"


class RemotePathError(ValueError):
    """An address of an object store or a web server in place of a local path; the message says what to do."""


def local_path(path: str | Path, what: str = "the path") -> Path:
    """The path, if it is one of this machine.

    Args:
        path: as a user gives it.
        what: what to call it in the message, such as `config.workdir`.

    Raises:
        RemotePathError: it is a URL such as `gs://bucket/run`, or what `pathlib` makes of one, `gs:/bucket/run`.
    """
    if found := _URL.search(str(path)):
        scheme, rest = (found[1] or found[2]).lower(), found[3].lstrip("/")
        remedy = _REMEDIES.get(scheme, _OTHERWISE).format(scheme=scheme, host=rest.split("/")[0], rest=rest)
        message = f"{what} is {str(path)!r}, which is no local path: {remedy}"
        raise RemotePathError(" ".join(message.split()))
    return Path(path)


def refuse_remote_paths(config: Any) -> None:
    """Look at every text in a `ConfigDict`, nested fields and tuples included, but for those of `URL_FIELDS`.

    Raises:
        RemotePathError: names the field.
    """
    for field, text in _texts(config.to_dict()):
        _refuse(field, text)


def refuse_remote_settings(arguments: Iterable[str]) -> None:
    """The same for `--config.FIELD=VALUE` on a command line that another machine will run.

    Raises:
        RemotePathError: names the field.
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
    """Every text with the name of its field."""
    if isinstance(value, str | Path):
        yield field, str(value)
    elif isinstance(value, Mapping):
        for name in value:
            yield from _texts(value[name], f"{field}.{name}" if field else str(name))
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from _texts(one, field)
