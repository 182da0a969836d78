"""Base classes of the errors that programs report in one line."""


class UserError(Exception):
    """An error whose message says what is wrong and what to do; a program prints it and ends with status 1."""


class ConfigError(UserError, ValueError):
    """A field of the config has an invalid value; the message names the field and the valid values."""


class MissingFileError(UserError, FileNotFoundError):
    """A file, folder or program that the user named does not exist; the message names it."""


class MissingPackageError(UserError, ImportError):
    """A package that only a part of the library needs is not installed; the message names the command."""


def missing_package(package: str, extra: str) -> MissingPackageError:
    """Returns the error for a package that is not installed; `extra`: of setup.cfg, which has it."""
    return MissingPackageError(f'{package} is not installed: pip install -c constraints.txt -e ".[{extra}]"')
