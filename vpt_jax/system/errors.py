"""Base classes of the errors that programs report in one line."""


class UserError(Exception):
    """An error whose message says what is wrong and what to do; a program prints it and ends with status 1."""


class ConfigError(UserError, ValueError):
    """A field of the config has an invalid value; the message names the field and the valid values."""


class MissingFileError(UserError, FileNotFoundError):
    """A file, folder or program that the user named does not exist; the message names it."""
