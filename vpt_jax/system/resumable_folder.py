"""Output folders that later runs resume: they keep the settings they were made with, and other settings are refused."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vpt_jax.system.atomic_files import read_json, write_text
from vpt_jax.system.errors import UserError
from vpt_jax.system.mount_points import is_free
from vpt_jax.system.workers import locked

_SETTINGS = "settings.json"


@contextmanager
def resumable_folder(
    folder: Path,
    settings: Mapping[str, Any],
    error_class: type[UserError],
    discard_unknown: bool = False,
    fields: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[None]:
    """Lock a folder whose files are all made with the same settings, which its `settings.json` holds.

    Args:
        folder: created if it is missing.
        settings: of this run; JSON values.
        error_class: of the errors.
        discard_unknown: remove all files if their settings are missing or damaged, instead of raising.
        fields: config fields of the settings that are stored under another name, by that name.

    Raises:
        UserError: of `error_class`: the folder's files were made with other settings, or these are unknown.
        FolderInUseError: another run has locked the folder.
    """
    with locked(folder):
        file = folder / _SETTINGS
        if isinstance(stored := read_json(file), dict):
            refuse_changes(folder, stored, settings, error_class, fields=fields)
        else:
            if discard_unknown:
                _clear(folder, file)
            else:
                _refuse_unknown(folder, file, error_class)
            write_text(file, json.dumps(settings, indent=1) + "\n")
        yield


def refuse_changes(
    place: Path,
    stored: Mapping[str, Any],
    settings: Mapping[str, Any],
    error_class: type[UserError],
    field: str = "config.out",
    fields: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Raise an error of `error_class` if the settings that `place` was made with differ from those of this run.

    Args:
        place: the file or folder.
        stored: settings that it was made with.
        settings: of this run.
        error_class: of the error, whose message names the settings that differ, and the remedy.
        field: config field that chooses another place.
        fields: as in `resumable_folder`.
    """
    if changes := describe_changes(stored, settings, fields):
        raise error_class(f"{place} was made with other settings: {changes}. Remove it, or choose another --{field}")


def describe_changes(
    stored: Mapping[str, Any], settings: Mapping[str, Any], fields: Mapping[str, str] = MappingProxyType({})
) -> str:
    """List the settings that differ, as in `height was 64 and is now 128`; "" if all are equal."""
    return "; ".join(
        f"{fields.get(name, name)} was {stored.get(name)!r} and is now {settings.get(name)!r}"
        for name in sorted(stored.keys() | settings.keys())
        if stored.get(name) != settings.get(name)
    )


def in_use_message(folder: Path) -> str:
    """Message for an output folder that holds files of something else."""
    return f"{folder} is in use by something else: choose another --config.out"


def _refuse_unknown(folder: Path, file: Path, error_class: type[UserError]) -> None:
    """Raise if there are files but no settings; a run that is stopped while it writes these leaves no other file."""
    other_files = [path for path in folder.iterdir() if path != file and not path.name.startswith(f"{file.name}.")]
    if not other_files or is_free(folder):
        return
    if not file.exists():
        raise error_class(in_use_message(folder))
    raise error_class(
        f"{file} is damaged, and no other file holds the settings of {other_files[0]}: remove {folder}, or choose "
        "another --config.out"
    )


def _clear(folder: Path, file: Path) -> None:
    if file.exists():
        print(f"{file} is damaged, so all files in its folder are created again", flush=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
