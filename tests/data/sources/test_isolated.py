"""Tasks that die, hang, eat memory, start programs or change what is elsewhere cost themselves alone."""

import multiprocessing
import os
import resource
import subprocess
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from vpt_jax.data.sources import ytdlp
from vpt_jax.data.sources.isolated import Lost, _limit_memory, confine, run

# A program has one server that starts processes. Whoever is first says what it loads: here, what the next tests need.
LIBRARIES = (ytdlp.__name__, *ytdlp.LIBRARIES)


def misbehave(how, folder):
    confine(Path(folder))
    if how == "die":
        os._exit(3)
    if how == "hang":
        time.sleep(100)
    if how == "eat":
        bytearray(1 << 30)
    if how == "start":
        subprocess.run(["/bin/true"], check=True)
    if how == "write":
        Path(folder, "..", "outside").write_text("")
    if how == "change":
        change(Path(folder))
    if how == "half":
        Connection.send_bytes = lambda self, data: (os.write(self.fileno(), b"\0\0\0\x64half"), os._exit(4))
    if how == "limit":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        _limit_memory(1 << 50)
        assert resource.getrlimit(resource.RLIMIT_AS) == (hard, hard)
    if how == "rename":
        Path(folder, "inside").rename(Path(folder, "..", "outside"))
    Path(folder, "inside").write_text(how)
    return how


def change(folder):
    """What can be done to a file, done to one inside, and tried with one outside."""
    (folder / "mine").touch()
    attempts = (
        lambda path: os.truncate(path, 0), lambda path: os.chmod(path, 0o600), lambda path: os.chown(path, -1, -1),
        os.utime, os.remove,
    )  # fmt: skip
    for attempt in attempts:
        attempt(folder / "mine")
        with pytest.raises(PermissionError, match="nothing may be written"):
            attempt(folder / ".." / "outside")
    with pytest.raises(PermissionError, match="nothing may be written"):
        os.rmdir(folder)
    with pytest.raises(PermissionError, match="from another folder is not allowed"):
        os.remove("outside", dir_fd=os.open(folder.parent, os.O_RDONLY))


def test_tasks_that_go_wrong_cost_themselves_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "outside").write_text("theirs")
    hows = ("hang", "die", "fine", "eat", "start", "write", "rename", "change", "half", "limit", "good")
    tasks = [(how, str(tmp_path / "folder")) for how in hows]
    start = time.monotonic()
    answers = {hows[number]: answer for number, answer in run(misbehave, tasks, 2, 3, LIBRARIES, memory=500_000_000)}
    assert time.monotonic() - start < 60
    assert all(answers[how] == how for how in ("fine", "change", "limit", "good")), answers
    assert answers["hang"] == Lost("took over 3 s")
    assert answers["die"] == Lost("its process ended with status 3")
    assert answers["half"] == Lost("its process ended with status 4")
    assert answers["eat"].reason.startswith("MemoryError")
    assert answers["start"].reason == "PermissionError: subprocess.Popen is not allowed here"
    assert all(answers[how].reason.startswith("PermissionError: nothing may be written") for how in ("write", "rename"))
    assert sorted(os.listdir(tmp_path)) == ["folder", "outside"]
    assert (tmp_path / "outside").read_text() == "theirs"


def test_leaving_ends_what_runs(tmp_path):
    (tmp_path / "folder").mkdir()
    tasks = [(how, str(tmp_path / "folder")) for how in ("fine", "hang")]
    start = time.monotonic()
    for _, answer in run(misbehave, tasks, 2, 100):
        assert answer == "fine"
        break
    assert not multiprocessing.active_children()
    assert time.monotonic() - start < 60
