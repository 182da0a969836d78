"""`~` at the beginning of a path, where the shell has left it: after `=`, in quotes, in tuples."""

import re
from pathlib import Path

from ml_collections import ConfigDict

# `~`, `~/PATH` or `~USER/PATH`, alone or as NAME=~/PATH; not words with a tilde in them.
_HOME = re.compile(r"(?P<before>(?:[\w.-]+=)?)(?P<path>~(?:[A-Za-z_][\w.-]*)?(?:/.*)?)", re.DOTALL)
_FLAG = re.compile(r"(?P<flag>--?[\w.]+=)(?P<value>~.*)", re.DOTALL)
_NO_PATHS = {"search", "terms", "reject_words"}  # fields of words


class NoHomeError(ValueError):
    """A path that begins with the home folder of nobody; the message names it."""


def expand_home(text: str, name: str) -> str:
    """The text with the home folder in place of `~`, if it is such a path; `name` is what to call it in an error.

    Raises:
        NoHomeError: there is no such user, or nobody knows the home folder.
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
    """The same for a word of a command line: `~/PATH` or `--FLAG=~/PATH`."""
    if found := _FLAG.fullmatch(argument):
        if found["flag"].strip("-=").rpartition(".")[2] in _NO_PATHS:
            return argument
        return found["flag"] + expand_home(found["value"], found["flag"].rstrip("="))
    return argument


def expand_config(config: ConfigDict, field: str = "config") -> None:
    """The same for all texts of a config, those in tuples too."""
    for name in config:
        value, full = config[name], f"{field}.{name}"
        if isinstance(value, ConfigDict):
            expand_config(value, full)
        elif name in _NO_PATHS:
            continue
        elif isinstance(value, str):
            config[name] = expand_home(value, full)
        elif isinstance(value, tuple | list):
            config[name] = type(value)(expand_home(one, full) if isinstance(one, str) else one for one in value)
