"""Atomic writes survive a power cut: fsync before the rename; damaged files are detected."""

import errno
import json
import os

import numpy as np
import pytest

from vpt_jax.system.atomic_files import atomic_write, publish, read_arrays, read_json, write_text


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Names of the files that are synced or renamed, in order."""
    recorded, names = [], {}
    opened, rename, fsync = os.open, os.rename, os.fsync

    def open_and_record(path, *arguments, **named):
        names[handle := opened(path, *arguments, **named)] = os.path.relpath(path, tmp_path)
        return handle

    monkeypatch.setattr(os, "open", open_and_record)
    monkeypatch.setattr(os, "fsync", lambda handle: (recorded.append(names[handle]), fsync(handle)))
    monkeypatch.setattr(
        os, "rename", lambda a, b: (recorded.append(f"-> {os.path.relpath(b, tmp_path)}"), rename(a, b))
    )
    return recorded


def test_contents_are_synced_before_the_rename_and_the_folder_after(calls, tmp_path):
    """Otherwise a power cut leaves a partial file under the final name (attack H2)."""
    write_text(tmp_path / "x.json", "{}")
    assert calls[0].startswith("x.json.")
    assert calls[1:] == ["-> x.json", "."]


def test_the_whole_tree_of_a_folder_is_synced_before_the_rename(calls, tmp_path):
    """Files, the folders that name them, then the folder itself (attack H2)."""
    (tmp_path / "new" / "inner").mkdir(parents=True)
    (tmp_path / "new" / "inner" / "file").write_text("x")
    publish(tmp_path / "new", tmp_path / "whole")
    assert calls == ["new/inner/file", "new/inner", "new", "-> whole", "."]
    assert (tmp_path / "whole" / "inner" / "file").read_text() == "x"


def test_an_error_leaves_the_existing_file_unchanged(tmp_path):
    """A full disk during the write, or a stop (attack H2)."""
    write_text(tmp_path / "x", "before")

    def write_half(error):
        with atomic_write(tmp_path / "x") as temporary:
            temporary.write_text("half")
            raise error

    for error in (OSError(errno.ENOSPC, "full"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            write_half(error)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "before"


def test_folders_that_cannot_be_synced_are_not_an_error(tmp_path, monkeypatch):
    """Some network file systems have no fsync of folders; a failing disk is an error."""
    for number, refused in {errno.EINVAL: False, errno.EIO: True}.items():

        def fail(_, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)
        if refused:
            with pytest.raises(OSError, match=os.strerror(number)):
                write_text(tmp_path / "y", "text")
        else:
            write_text(tmp_path / "x", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_damaged_files_are_none(tmp_path):
    """Empty, truncated, of zeros, with a flipped bit, of another kind, or missing (attack H2)."""
    whole = tmp_path / "whole.npz"
    np.savez(whole, a=np.arange(50), b=np.zeros(9))
    data = whole.read_bytes()
    assert read_arrays(whole)["a"].tolist() == list(range(50))
    flipped = bytearray(data)
    flipped[200] ^= 1
    np.save(tmp_path / "plain.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", a=np.array([{}], object))
    damaged = [b"", data[: len(data) // 2], data[:-5], bytes(len(data)), bytes(flipped), b"text"]
    damaged += [(tmp_path / name).read_bytes() for name in ("plain.npy", "objects.npz")]
    for number, content in enumerate(damaged):
        (tmp_path / "file").write_bytes(content)
        assert read_arrays(tmp_path / "file") is None, number
    assert read_arrays(tmp_path / "nothing") is None
    (tmp_path / "x.json").write_text(json.dumps({"é": 1}))
    assert read_json(tmp_path / "x.json") == {"é": 1}
    for content in (b"", b'{"a": 1', bytes(9), b"\xff", b"[" * 100_000, b"1" * 9_000):
        (tmp_path / "x.json").write_bytes(content)
        assert read_json(tmp_path / "x.json") is None
    assert read_json(tmp_path / "nothing") is None
