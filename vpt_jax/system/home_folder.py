"""Tilde expansion (`~`) in paths that the shell does not expand: after `=`, in quotes, in tuples."""

import re
from pathlib import Path

from ml_collections import ConfigDict

from vpt_jax.system.errors import UserError

# `~`, `~/PATH` or `~USER/PATH`, alone or as NAME=~/PATH; not words with a tilde in them.
_HOME = re.compile(r"(?P<before>(?:[\w.-]+=)?)(?P<path>~(?:[A-Za-z_][\w.-]*)?(?:/.*)?)", re.DOTALL)
_FLAG = re.compile(r"(?P<flag>--?[\w.]+=)(?P<value>~.*)", re.DOTALL)
_TEXT_FIELDS = {"search", "terms", "reject_words"}  # fields that hold text, not paths


class NoHomeError(UserError, ValueError):
    """A path that begins with the home folder of an unknown user; the message names it."""


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
    """Expand `~` in a command-line argument: `~/PATH` or `--FLAG=~/PATH`. Errors as `expand_home`."""
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
            config[name] = type(value)(expand_home(item, full) if isinstance(item, str) else item for item in value)
