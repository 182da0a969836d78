"""Locks (flock) of folders that runs remove when their work is done."""

import fcntl
import os

import pytest

from vpt_jax.system.workers import FolderInUseError, locked


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("place", ["os.open", "fcntl.flock"])
def test_a_folder_that_is_removed_while_it_is_locked_is_created_again(tmp_path, monkeypatch, place, wait):
    """The lock must be held on the existing folder: a lock of a removed one would exclude no other run."""
    folder, removed = tmp_path / "work", []
    call = {"os.open": os.open, "fcntl.flock": fcntl.flock}[place]

    def remove_first(*arguments):
        if not removed:
            removed.append(folder.rmdir())
        return call(*arguments)

    monkeypatch.setattr(f"vpt_jax.system.workers.{place}", remove_first)
    with locked(folder, wait) as handle:
        assert removed == [None]
        assert os.path.samestat(os.fstat(handle), folder.stat())
        with pytest.raises(FolderInUseError, match="another run is working on"), locked(folder):
            pass
    with locked(folder):
        pass
