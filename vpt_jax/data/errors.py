"""Errors of datasets on disk."""


class DatasetMissingError(FileNotFoundError):
    """There is no dataset, or no such split, at a path; the message says how to make one."""


class DatasetDamagedError(ValueError):
    """Files of a dataset are damaged or do not belong together; the message names the file and what to do."""


class OpenFilesError(OSError):
    """The process may open no more files, or the machine; the message says what to set."""
