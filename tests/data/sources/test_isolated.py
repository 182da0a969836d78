"""Tasks that die, hang, eat memory, start programs or write elsewhere cost themselves alone."""

import os
import subprocess
import time
from pathlib import Path

from vpt_jax.data.sources.isolated import Lost, confine, run


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
    if how == "rename":
        Path(folder, "inside").rename(Path(folder, "..", "outside"))
    Path(folder, "inside").write_text(how)
    return how


def test_tasks_that_go_wrong_cost_themselves_alone(tmp_path):
    (tmp_path / "folder").mkdir()
    hows = ("hang", "die", "fine", "eat", "start", "write", "rename", "good")
    tasks = [(how, str(tmp_path / "folder")) for how in hows]
    start = time.monotonic()
    answers = {hows[number]: answer for number, answer in run(misbehave, tasks, 2, 8, memory=500_000_000)}
    assert time.monotonic() - start < 60
    assert answers["fine"] == "fine"
    assert answers["good"] == "good"
    assert answers["hang"] == Lost("took over 8 s")
    assert answers["die"] == Lost("its process ended with status 3")
    assert answers["eat"].reason.startswith("MemoryError")
    assert answers["start"].reason == "PermissionError: subprocess.Popen is not allowed here"
    assert all(answers[how].reason.startswith("PermissionError: nothing may be written") for how in ("write", "rename"))
    assert os.listdir(tmp_path) == ["folder"]


def test_leaving_ends_what_runs(tmp_path):
    (tmp_path / "folder").mkdir()
    tasks = [(how, str(tmp_path / "folder")) for how in ("fine", "hang")]
    start = time.monotonic()
    for _, answer in run(misbehave, tasks, 2, 100):
        assert answer == "fine"
        break
    assert time.monotonic() - start < 60
