"""Errors of datasets on disk."""


class DatasetMissingError(FileNotFoundError):
    """Missing dataset or split at a path; the message says how to make one."""


class DatasetDamagedError(ValueError):
    """Damaged or inconsistent dataset files; the message names the file and the remedy."""


class OpenFilesError(OSError):
    """Limit of open files reached, of the process or of the machine; the message says which limit to raise."""
