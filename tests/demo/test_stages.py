"""Stages as real processes: dependencies, skipping of finished stages, failures, and stopping by signals."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from contextlib import nullcontext

import pytest
from demo.stages import Stage, StageFailedError, Stages

from tests.programs import ROOT

PROGRAM = """
import signal, sys, time
def note(what):
    with open("ran", "a") as file:
        file.write(what + " " + " ".join(sys.argv[1:]) + "\\n")
def stop(*_):
    time.sleep(0.7)
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
    """Runs stages, each given by its arguments and its dependencies; returns the lines that they wrote to `ran`."""

    def run(stages, max_parallel=1, output=None):
        (tmp_path / "ran").write_text("")
        todo = [
            Stage(name, (sys.executable, "-c", PROGRAM, *words.split()), tuple(depends_on), output)
            for name, (words, *depends_on) in stages.items()
        ]
        seconds = Stages(todo, tmp_path / "notes", os.environ, tmp_path).run(max_parallel)
        assert list(seconds) == list(stages)
        return (tmp_path / "ran").read_text().splitlines()

    return run


@pytest.fixture
def when_started(tmp_path):
    """Calls functions, one after another, once a stage of this name has started."""

    def when_started(name, *calls):
        def wait():
            while not (tmp_path / "ran").exists() or f"began {name}" not in (tmp_path / "ran").read_text():
                time.sleep(0.02)
            for call in calls:
                call()
                time.sleep(0.05)

        thread = threading.Thread(target=wait)
        thread.start()
        return thread

    return when_started


def sequential(*words):
    return [f"{what} {word}" for word in words for what in ("began", "ended")]


def last_note(tmp_path):
    return (tmp_path / "ran").read_text().splitlines()[-1]


def test_lines_of_a_stage_carry_its_number(run, capfd):
    run({"first": ("a",), "the second": ("b 'c d'",)})
    shown = capfd.readouterr().out
    assert re.search(r"^\[2/2\] the second\n  \S+ -c ", shown, re.MULTILINE)
    assert re.search(r"^\[1\] hello from a\n", shown, re.MULTILINE)


def test_any_output_is_shown_to_its_end(tmp_path, capfd):
    program = "import os; os.write(1, b'\\xff\\n' * 50000); os.write(1, b'the end')"
    Stages([Stage("a", (sys.executable, "-c", program))], tmp_path, os.environ, tmp_path).run(1)
    shown = capfd.readouterr().out
    assert shown.count("[1] \ufffd\n") == 50000
    assert shown.endswith("[1] the end")


def test_finished_stages_are_skipped_until_their_command_or_a_dependency_changes(run):
    assert run({"1": ("a",), "2": ("b", "1"), "3": ("c",)}) == sequential("a", "b", "c")
    assert run({"1": ("a",), "2": ("b", "1"), "3": ("c",)}) == []
    assert run({"1": ("a",), "2": ("b", "1"), "3": ("d",)}) == sequential("d")
    assert run({"1": ("A",), "2": ("b", "1"), "3": ("d",)}) == sequential("A", "b")


def test_stages_are_found_again_in_another_order_and_among_others(run):
    run({"1": ("a",), "2": ("b", "1"), "3": ("c",)})
    assert run({"3": ("c",), "new": ("d", "3"), "1": ("a",), "2": ("b", "1")}) == sequential("d")
    assert run({"2": ("b",)}) == sequential("b")  # it does not depend on another one any more


def test_progress_is_reported_at_the_start_and_after_each_stage(tmp_path):
    def reported(*names):
        done = []
        stages = [Stage(name, (sys.executable, "-c", "")) for name in names]
        Stages(stages, tmp_path, os.environ, tmp_path).run(1, lambda seconds: done.append(list(seconds)))
        return done

    assert reported("1", "2", "3") == [[], ["1"], ["1", "2"]]  # after the last one, `run` returns
    assert reported("1", "2", "3", "4") == [["1", "2", "3"]]
    assert reported("1", "2", "3", "4") == []


def test_progress_is_reported_while_a_stage_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.stages._PROGRESS_INTERVAL", 0.1)
    done = []
    nap = Stage("nap", (sys.executable, "-c", "import time; time.sleep(0.7)"))
    Stages([nap], tmp_path, os.environ, tmp_path).run(1, lambda seconds: done.append(list(seconds)))
    assert done == [[]] * len(done)
    assert len(done) > 1


def test_a_stage_waits_for_its_dependencies_and_for_nothing_else(run):
    lines = run({"1": ("nap",), "2": ("b", "1"), "3": ("c",), "4": ("d", "3", "2")}, max_parallel=2)
    assert lines.index("ended nap") < lines.index("began b")
    assert lines.index("ended c") < lines.index("ended nap")
    assert lines[-2:] == sequential("d")


def test_the_number_of_parallel_stages_is_limited(run):
    lines = run({str(i): (f"nap {i}",) for i in range(4)}, max_parallel=2)
    began = [sum(line.startswith("began") for line in lines[: i + 1]) for i in range(len(lines))]
    ended = [sum(line.startswith("ended") for line in lines[: i + 1]) for i in range(len(lines))]
    assert max(b - e for b, e in zip(began, ended, strict=True)) == 2


def test_a_failed_stage_is_named_with_its_command_and_others_are_stopped(run, tmp_path):
    stages = {"1": ("sleep",), "2": ("nap",), "3": ("fail twice", "2"), "4": ("c", "3")}
    with pytest.raises(StageFailedError, match=r"3: ended with code 3\. Run it alone: ") as error:
        run(stages, max_parallel=2)
    command = shlex.split(str(error.value).partition("Run it alone: ")[2])
    assert last_note(tmp_path) == "stopped sleep"
    assert subprocess.run(command, cwd=tmp_path).returncode == 3
    assert run(stages | {"1": ("b",), "3": ("b2", "2")}) == sequential("b", "b2", "c")


def test_a_stage_that_ends_without_its_output_is_not_finished(run, tmp_path):
    with pytest.raises(StageFailedError, match=r"1: ended without writing .*\. Run it alone: "):
        run({"1": ("a",)}, output=tmp_path / "result")
    (tmp_path / "result").touch()
    assert run({"1": ("a",)}, output=tmp_path / "result") == sequential("a")


@pytest.mark.parametrize("numbers", [["SIGTERM"], ["SIGHUP"], ["SIGINT", "SIGINT", "SIGTERM"]])
def test_a_signal_stops_running_stages_and_the_next_run_resumes_them(run, when_started, tmp_path, numbers):
    sent = (lambda number=number: os.kill(os.getpid(), getattr(signal, number)) for number in numbers)
    thread = when_started("sleep", *sent)
    with pytest.raises(KeyboardInterrupt):
        run({"1": ("a",), "2": ("sleep",), "3": ("c", "2")})
    thread.join()
    assert last_note(tmp_path) == "stopped sleep"
    assert run({"1": ("a",), "2": ("b",), "3": ("c", "2")}) == sequential("b", "c")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("status", [0, 130])
def test_a_stage_that_ends_as_the_signal_comes_is_no_failure_and_if_done_not_repeated(tmp_path, monkeypatch, status):
    """Schedulers signal all processes of a job at once."""
    program = f"import os, signal, sys; os.kill(os.getppid(), signal.SIGTERM); sys.exit({status})"
    monkeypatch.setattr("demo.stages._POLL_INTERVAL", 1.0)
    stages = [Stage("2", (sys.executable, "-c", program)), Stage("3", (sys.executable, "-c", PROGRAM, "c"), ("2",))]
    todo = Stages(stages, tmp_path / "notes", os.environ, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        todo.run(1)
    assert [*todo.finished()] == ["2"] * (status == 0)


def test_seconds_of_a_stopped_stage_are_counted(run, when_started, tmp_path):
    thread = when_started("nap", lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        run({"1": ("nap",)})
    thread.join()
    (record,) = tmp_path.glob("notes/1-*/record.json")
    stopped = json.loads(record.read_text())["seconds"]
    run({"1": ("nap",)})
    assert json.loads(record.read_text())["seconds"] > stopped + 0.7


def test_a_stage_that_a_killed_run_left_behind_is_waited_for(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("demo.stages._RETRY_INTERVAL", 0.1)
    command = (sys.executable, "-c", PROGRAM, "nap")
    program = f"""
from pathlib import Path
from demo.stages import Stage, Stages
Stages([Stage("1", {command!r})], Path("notes"), {{}}, Path(".")).run(1)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "launch")])}
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    while not (tmp_path / "ran").exists():
        time.sleep(0.02)
    parent.kill()
    parent.wait()
    stages = [Stage("1", command), Stage("2", (sys.executable, "-c", PROGRAM, "b"))]
    Stages(stages, tmp_path / "notes", os.environ, tmp_path).run(1)
    assert (tmp_path / "ran").read_text().splitlines() == [
        "began nap", "began b", "ended b", "ended nap", "began nap", "ended nap"
    ]  # fmt: skip
    assert capfd.readouterr().out.count("waiting: another run is working on it: 1\n") == 1


def test_runs_side_by_side_share_the_stages(tmp_path, monkeypatch):
    monkeypatch.setattr("demo.stages._RETRY_INTERVAL", 0.1)
    stages = [Stage(str(i), (sys.executable, "-c", PROGRAM, "nap", str(i))) for i in range(3)]
    runs = [Stages(order, tmp_path / "notes", os.environ, tmp_path) for order in (stages, stages[::-1])]
    monkeypatch.setattr("demo.stages._received_signals", lambda: nullcontext([]))  # these need the main thread
    threads = [threading.Thread(target=run.run, args=(1,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ran = (tmp_path / "ran").read_text().splitlines()
    assert sorted(ran) == sorted(f"{what} nap {i}" for what in ("began", "ended") for i in range(3))
    assert ran[1].startswith("began")
    assert runs[0].finished() == runs[1].finished()


def test_a_printed_command_has_the_variables_that_the_stage_gets(tmp_path):
    stage = Stage("1", ("python", "a b"))
    assert Stages([stage], tmp_path, os.environ, tmp_path).shell_command(stage) == "python 'a b'"
    environment = os.environ | {"XLA_FLAGS": "--xla_a=false --b"}
    command = Stages([stage], tmp_path, environment, tmp_path).shell_command(stage)
    assert command == "env 'XLA_FLAGS=--xla_a=false --b' python 'a b'"
