"""Config files of the command line: a path, or the name of one of the package's configs (`vpt_jax.configs`)."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from vpt_jax.system.errors import MissingFileError

_PACKAGED = Path(__file__).parents[1] / "configs"
_SHARED = {"__init__", "base", "rl_base"}  # bases of other configs
_FLAG = re.compile(r"(?P<flag>--?config)(?:=(?P<value>.*))?", re.DOTALL)


def config_argument(arguments: Iterable[str], default: str) -> str:
    """Value of the last `--config` of a command line, NAME[:VARIANT] or FILE[:VARIANT]; `default` if it has none."""
    value, follows = default, False
    for argument in arguments:
        if follows:
            value, follows = argument, False
        elif found := _FLAG.fullmatch(argument):
            value, follows = (value, True) if found["value"] is None else (found["value"], False)
    return os.path.expanduser(value)


def find_config(config: str) -> str:
    """FILE[:VARIANT] of a config that is given as such, or as NAME[:VARIANT], by the name of a config of the package.

    Raises:
        MissingFileError: there is no such file or name; the message lists the names.
    """
    file, colon, variant = config.partition(":")
    names = sorted({path.stem for path in _PACKAGED.glob("*.py")} - _SHARED)
    if file in names:
        return f"{_PACKAGED / file}.py{colon}{variant}"
    if os.path.exists(file):
        return config
    if (name := Path(file).stem) in names:
        remedy = f"the package's own is --config={name}{colon}{variant}"
    else:
        remedy = f"give a path, or one of the package's configs by its name: {', '.join(names)}"
    raise MissingFileError(f"there is no config file {file} in {os.getcwd()}: {remedy}")


def find_configs(arguments: Iterable[str]) -> list[str]:
    """The arguments of a command line with `find_config` applied to the values of `--config`. Raises as it does."""
    found_arguments, follows = list[str](), False
    for argument in arguments:
        found = None if follows else _FLAG.fullmatch(argument)
        if follows:
            argument, follows = find_config(argument), False
        elif found and found["value"] is None:
            follows = True
        elif found:
            argument = f"{found['flag']}={find_config(found['value'])}"
        found_arguments.append(argument)
    return found_arguments
