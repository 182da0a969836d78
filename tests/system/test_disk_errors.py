"""Disk errors end a program with one line that names the folder and the remedy (attack L4)."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from absl import app, flags
from ml_collections import ConfigDict

from vpt_jax.system import command_line, disk_errors
from vpt_jax.system.disk_errors import explain_disk_error, raise_disk_errors_as
from vpt_jax.system.errors import MissingFileError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "x", "/data/ds.partial/a.npz"), "cannot write to /data/ds.partial/a.npz: No space left"),
        (OSError(errno.ENOSPC, "x"), "cannot write to /data/ds: No space left on device; make room there"),
        (OSError(errno.EROFS, "x", "/data"), "cannot write to /data: Read-only file system; mount it for writing"),
        (PermissionError(errno.EACCES, "x", "/data/ds"), "cannot write to /data/ds: Permission denied; change who may"),
        (PermissionError(errno.EACCES, "x", "/films/a.mp4"), "cannot read /films/a.mp4: Permission denied"),
        (NotADirectoryError(errno.ENOTDIR, "x", "/data/ds"), "cannot write to /data/ds: Not a directory; a file is in"),
        (FileNotFoundError(errno.ENOENT, "x", "/data/ds"), "cannot write to /data/ds: No such file or directory; make"),
        (ValueError("RESOURCE_EXHAUSTED: pwrite: No space left on device"), "cannot write to /data/ds: No space left"),
        (OSError(errno.EMFILE, "x", "/films/a.mp4"), "too many open files: allow more (ulimit -n 65536)"),
        (OSError(errno.ENFILE, "x"), "too many open files in system: allow more (ulimit -n 65536)"),
        (
            ValueError("RESOURCE_EXHAUSTED: Opening: Too many open files [os_error_code='24']"),
            "too many open files: al",
        ),
        (ValueError("UNAVAILABLE: Stale file handle"), "cannot write to /data/ds: Stale file handle; mount the"),
        (ExceptionGroup("all", [OSError(errno.EDQUOT, "x")]), "cannot write to /data/ds: Disk quota exceeded; make"),
    ],
)
def test_the_folder_and_the_remedy_are_named(error, line):
    message = explain_disk_error(error, ["/data/ds"])
    assert message.startswith(line)
    assert message.endswith("What is done is kept: run the same command again")
    wrapped = RuntimeError("saving failed")
    wrapped.__cause__ = error
    assert explain_disk_error(wrapped, ["/data/ds"]) == message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ((errno.EDQUOT, "no more"), "cannot write to /a: Disk quota exceeded; make room there.* kept: run the same"),
        ((errno.EACCES, "not you", "/a/b"), "cannot write to /a/b: Permission denied; .* kept: run the same"),
        ((errno.EACCES, "not you", "/b"), "cannot read /b: Permission denied; .* kept: run the same"),
        ((errno.EAGAIN, "no more"), r"^\[Errno 11\] no more\. .* kept: run the same"),
    ],
)
def test_system_errors_are_raised_as_the_errors_of_a_job(error, message):
    with pytest.raises(LookupError, match=message), raise_disk_errors_as(Path("/a"), LookupError):
        raise OSError(*error)


def test_errors_with_a_message_for_the_user_are_not_converted():
    with pytest.raises(MissingFileError, match=r"^there is no file x$"), raise_disk_errors_as(Path("/a"), LookupError):
        raise MissingFileError("there is no file x")


def test_other_errors_are_not_explained():
    for error in (ValueError("a bug"), FileNotFoundError(errno.ENOENT, "x", "/films/a.mp4"), OSError("odd")):
        assert explain_disk_error(error, [os.curdir]) is None


@pytest.mark.parametrize("bug", [AttributeError, KeyError, TypeError, NameError, IndexError, AssertionError])
def test_a_bug_of_the_program_is_not_reported_as_a_disk_error(bug):
    """Its traceback is needed, whatever error was being handled when it was raised."""
    with pytest.raises(bug) as raised:  # noqa: PT012
        try:
            raise FileExistsError(errno.EEXIST, "x", "/data/ds")
        except FileExistsError:
            raise bug("a bug")  # noqa: B904
    assert explain_disk_error(raised.value, ["/data/ds"]) is None


def test_the_context_of_an_error_is_explained_unless_suppressed():
    for suppressed in (False, True):
        with pytest.raises(RuntimeError) as raised:  # noqa: PT012
            try:
                raise FileExistsError(errno.EEXIST, "x", "/data/ds")
            except FileExistsError:
                if suppressed:
                    raise RuntimeError("of its own") from None
                raise RuntimeError("saving failed")  # noqa: B904
        assert (explain_disk_error(raised.value, ["/data/ds"]) is None) == suppressed


def test_a_partly_written_array_on_a_full_disk_is_a_disk_error(monkeypatch):
    """NumPy reports the number of written bytes, but not the reason."""
    full = SimpleNamespace(f_bavail=0, f_frsize=1)
    monkeypatch.setattr(disk_errors.os, "statvfs", lambda folder: full)
    assert "No space left" in explain_disk_error(OSError("1024 requested and 512 written"), ["/data/ds"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_an_error_of_a_real_full_device_is_explained():
    def write():
        with open("/dev/full", "wb") as file:
            np.savez(file, np.zeros(100_000))

    with pytest.raises(OSError, match=r"No space|requested") as error:
        write()
    assert "No space left" in explain_disk_error(error.value, ["/data/ds"])


def test_programs_end_in_one_line(monkeypatch):
    def main():
        raise OSError(errno.ENOSPC, "No space left on device")

    values = {"config": SimpleNamespace(present=1, value=ConfigDict({"out": "/data/ds"}))}
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(command_line.stopping, "install", lambda: None)
    monkeypatch.setattr(app, "run", lambda guarded, flags_parser: guarded([]))
    with pytest.raises(SystemExit, match=r"^error: cannot write to /data/ds: No space left on device; make room there"):
        command_line.run_plain(main)
