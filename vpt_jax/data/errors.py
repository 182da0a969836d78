"""Errors of datasets on disk."""

from vpt_jax.system.errors import MissingFileError, UserError


class DatasetMissingError(MissingFileError):
    """Missing dataset or split at a path; the message says how to make one."""


class DatasetDamagedError(UserError, ValueError):
    """Damaged or inconsistent dataset files; the message names the file and the remedy."""


class OpenFilesError(UserError, OSError):
    """Limit of open files reached, of the process or of the machine; the message says which limit to raise."""


class PrepareError(UserError):
    """Dataset that cannot be prepared as configured; the message names the remedy."""
