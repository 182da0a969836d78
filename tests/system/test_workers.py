"""Locks (flock) of folders that runs remove when their work is done, and errors of workers."""

import fcntl
import os
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from vpt_jax.system.errors import ConfigError
from vpt_jax.system.workers import FolderInUseError, locked, task_result


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


def failed(error):
    future = Future()
    future.set_exception(error)
    return future


def test_a_dead_worker_is_an_error_that_names_its_inputs_and_the_remedy():
    remedy = "Finished work is kept: run the same command again, with a smaller --config.workers or without that input"
    for inputs, named in (("", "such as a.mp4"), ("b.mp4, c.mp4", "b.mp4, c.mp4")):
        with pytest.raises(ConfigError) as raised:
            task_result(failed(BrokenProcessPool()), "a.mp4", ConfigError, lambda inputs=inputs: inputs)
        message = f"a worker process died, out of memory or at one of its inputs ({named}). {remedy}"
        assert str(raised.value) == message
        assert raised.value.__suppress_context__


def test_an_error_of_a_task_is_raised_as_it_is_with_a_note():
    with pytest.raises(KeyError) as raised:
        task_result(failed(KeyError("a bug")), "a.mp4", ConfigError)
    assert raised.value.__notes__ == ["at a.mp4; finished work is kept: run the same command again to resume"]
