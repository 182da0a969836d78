"""Tasks that die, hang, eat memory, start programs or change what is elsewhere cost themselves alone."""

import ctypes
import multiprocessing
import os
import resource
import shutil
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.util import spawnv_passfds
from pathlib import Path

import cv2
import numpy as np
import pytest

from vpt_jax.curation.download import landlock, ytdlp
from vpt_jax.curation.download.sandbox import Lost, _limit_memory, confine, run

KERNEL = ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1)  # the version of Landlock

# A program has one server that starts processes. Whoever is first says what it loads: here, what the next tests need.
LIBRARIES = (ytdlp.__name__, *ytdlp.LIBRARIES)


def misbehave(how, folder):
    if how == "limit":
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        _limit_memory(1 << 50)
        assert resource.getrlimit(resource.RLIMIT_AS) == (hard, hard)
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


def _spawn(target, path):
    process = multiprocessing.get_context("spawn").Process(target=target, args=(path,))
    process.start()
    process.join(60)


def _run(path):
    os.waitpid(spawnv_passfds(b"/bin/touch", [b"touch", bytes(path)], []), 0)


def _bind(path):
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(path))


# Each makes a file at a path outside, or, of the last ones, starts a program that makes one inside.
MAKES = {
    "open": lambda path: path.open("w"),
    "os.open": lambda path: os.open(path, os.O_RDWR | os.O_CREAT),
    "os.open from a folder": lambda path: os.open(
        path.name, os.O_WRONLY | os.O_CREAT, dir_fd=os.open(path.parent, os.O_RDONLY)
    ),
    "open from the working folder": lambda path: (os.chdir(path.parent), Path(path.name).write_text("a")),
    "mkdir": os.mkdir,
    "mkdir from a folder": lambda path: os.mkdir(path.name, dir_fd=os.open(path.parent, os.O_RDONLY)),
    "symlink": lambda path: path.symlink_to("/"),
    "link": lambda path: os.link(path.parent / "victim", path),
    "rename": lambda path: (path.parent / "inside" / "mine").rename(path),
    "copy": lambda path: shutil.copy(path.parent / "victim", path),
    "mkfifo": os.mkfifo,
    "mknod": os.mknod,
    "unix socket": _bind,
    "sqlite": lambda path: sqlite3.connect(path).execute("create table a (b)"),
    "sqlite by address": lambda path: sqlite3.connect(f"file:{path}", uri=True).execute("create table a (b)"),
    "key log": lambda path: setattr(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), "keylog_filename", str(path)),
    "opencv.png": lambda path: cv2.imwrite(str(path), np.zeros((2, 2), np.uint8)),
    "ctypes": lambda path: ctypes.CDLL(None).creat(bytes(path), 0o600),
}
STARTS = {
    "spawn": lambda path: _spawn(Path.touch, path),
    "spawn a program": _run,
    "system": lambda path: os.system(f"touch '{path}'"),  # noqa: S605 - it is refused
    "posix_spawn": lambda path: os.waitpid(os.posix_spawn("/bin/touch", ["touch", path], {}), 0),
    "execv": lambda path: os.execv("/bin/touch", ["touch", str(path)]),  # noqa: S606 - it is refused
}
DOES = {
    "kill": lambda path: os.kill(os.getppid(), 0),
    "kill a group": lambda path: os.killpg(os.getppid(), 0),
    "limit": lambda path: resource.setrlimit(resource.RLIMIT_AS, resource.getrlimit(resource.RLIMIT_AS)),
    "attribute": lambda path: os.setxattr(path.parent / "victim", "user.a", b"b"),
    "mode": lambda path: os.chmod(path.parent / "victim", 0o600),
    "times": lambda path: os.utime(path.parent / "victim"),
    "fork": lambda path: os.fork() or os._exit(0),
}
# What confine's docstring says is not stopped without Landlock.
ANNOUNCED_BY_NOBODY = {"mkfifo", "mknod", "unix socket", "key log", "opencv.png", "spawn", "spawn a program"}


def escape(outside, kernel):
    """Tries all of it from within a folder. What was done, of what leaves no file, and the version of Landlock."""
    outside = Path(outside)
    if not kernel:
        landlock.restrict = lambda folder: 0
    version, done = confine(outside / "inside"), []
    for name, attempt in (MAKES | STARTS | DOES).items():
        with suppress(Exception):
            attempt((outside / "inside" if name in STARTS else outside) / name)
            done += [name] if name in DOES else []
    return [version, done]


@pytest.mark.parametrize("kernel", [True, False])
def test_what_gets_out_is_what_the_docstring_says(tmp_path, kernel):
    """(attack L2) Of 44 attempts 23 were held, and the docstring named fewer of the others."""
    outside = tmp_path / "outside"
    (outside / "inside").mkdir(parents=True)
    for name in ("victim", "inside/mine"):
        (outside / name).touch()
    ((_, (version, done)),) = run(escape, [(str(outside), kernel)], 1, 120, LIBRARIES)
    made = {path.name for folder in (outside, outside / "inside") for path in folder.iterdir()}
    assert (made - {"victim", "mine", "inside"}) | set(done) == (set() if version else ANNOUNCED_BY_NOBODY)
    assert bool(version) == (kernel and KERNEL > 0)
    for word in ("multiprocessing", "_posixsubprocess", "mkfifo", "mknod", "sockets of Unix", "ssl", "OpenCV"):
        assert word in confine.__doc__


def work(folder):
    """What a task may do."""
    confine(Path(folder))
    os.chdir(folder)
    Path("a").write_text("a")
    Path("b").mkdir()
    os.replace("a", "b/c")
    Path(os.devnull).write_text("a")
    connection = sqlite3.connect(":memory:")
    connection.execute("create table a (b)")
    with open("b/c", "r+b") as file:
        file.truncate(0)
    thread = threading.Thread(target=Path("d").write_text, args=["a"])
    thread.start()
    thread.join()
    return sorted(os.listdir(folder))


def test_what_a_task_needs_it_may_do(tmp_path):
    (tmp_path / "mine").mkdir()
    ((_, listed),) = run(work, [(str(tmp_path / "mine"),)], 1, 60, LIBRARIES)
    assert listed == ["b", "d"]
