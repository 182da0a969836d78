"""Stages as real processes: what needs what, what is skipped, what happens when one fails or all are stopped."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from vpt_jax.stages import Stage, StageFailedError, run_stages

PROGRAM = """
import signal, sys, time
def note(what):
    with open("ran", "a") as file:
        file.write(what + " " + " ".join(sys.argv[1:]) + "\\n")
def stop(*_):
    note("stopped")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
note("began")
print("hello from", *sys.argv[1:])
time.sleep({"sleep": 60, "nap": 0.7}.get(sys.argv[1], 0))
note("ended")
sys.exit(3 * ("fail" in sys.argv))
"""


@pytest.fixture
def run(tmp_path):
    """Runs stages, each given by its arguments and the names of those it needs; returns what has been noted."""

    def run(stages, at_once=1):
        (tmp_path / "ran").write_text("")
        todo = [
            Stage(name, (sys.executable, "-c", PROGRAM, *words.split()), tuple(after))
            for name, (words, *after) in stages.items()
        ]
        seconds = run_stages(todo, tmp_path / "notes", at_once, os.environ, tmp_path)
        assert list(seconds) == list(stages)
        return (tmp_path / "ran").read_text().splitlines()

    return run


def alone(*words):
    return [f"{what} {word}" for word in words for what in ("began", "ended")]


def test_lines_of_a_stage_carry_its_number(run, capfd):
    run({"first": ("a",), "the second": ("b 'c d'",)})
    shown = capfd.readouterr().out
    assert re.search(r"^\[2/2\] the second\n  \S+ -c ", shown, re.MULTILINE)
    assert re.search(r"^\[1\] hello from a\n", shown, re.MULTILINE)


def test_what_is_done_is_skipped_until_its_command_or_what_it_needs_changes(run):
    assert run({"1": ("a",), "2": ("b", "1"), "3": ("c",)}) == alone("a", "b", "c")
    assert run({"1": ("a",), "2": ("b", "1"), "3": ("c",)}) == []
    assert run({"1": ("a",), "2": ("b", "1"), "3": ("d",)}) == alone("d")
    assert run({"1": ("A",), "2": ("b", "1"), "3": ("d",)}) == alone("A", "b")


def test_a_stage_waits_for_what_it_needs_and_for_nothing_else(run):
    noted = run({"1": ("nap",), "2": ("b", "1"), "3": ("c",), "4": ("d", "3", "2")}, at_once=2)
    assert noted.index("ended nap") < noted.index("began b")
    assert noted.index("ended c") < noted.index("ended nap")
    assert noted[-2:] == alone("d")


def test_no_more_run_side_by_side_than_asked_for(run):
    noted = run({str(i): (f"nap {i}",) for i in range(4)}, at_once=2)
    began = [sum(line.startswith("began") for line in noted[: i + 1]) for i in range(len(noted))]
    ended = [sum(line.startswith("ended") for line in noted[: i + 1]) for i in range(len(noted))]
    assert max(b - e for b, e in zip(began, ended, strict=True)) == 2


def test_one_that_fails_is_named_with_its_command_and_the_others_are_stopped(run, tmp_path):
    stages = {"1": ("sleep",), "2": ("nap",), "3": ("fail twice", "2"), "4": ("c", "3")}
    with pytest.raises(StageFailedError, match=r"3: ended with code 3\. Alone: ") as error:
        run(stages, at_once=2)
    command = shlex.split(str(error.value).partition("Alone: ")[2])
    assert (tmp_path / "ran").read_text().splitlines()[-1] == "stopped sleep"
    assert subprocess.run(command, cwd=tmp_path).returncode == 3
    assert run(stages | {"1": ("b",), "3": ("b2", "2")}) == alone("b", "b2", "c")


def test_sigterm_stops_what_runs_and_the_next_run_goes_on_with_it(run, tmp_path):
    def stop():
        while not (tmp_path / "ran").exists() or "began sleep" not in (tmp_path / "ran").read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run({"1": ("a",), "2": ("sleep",), "3": ("c", "2")})
    thread.join()
    assert (tmp_path / "ran").read_text().splitlines()[-1] == "stopped sleep"
    assert run({"1": ("a",), "2": ("b",), "3": ("c", "2")}) == alone("b", "c")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
