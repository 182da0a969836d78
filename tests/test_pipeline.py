"""The whole loop as one command: its stages in order, each once, each of which can be run alone."""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from configs.demo import get_config
from launch import pipeline
from launch.pipeline import Stage, StageFailedError

from .html_page import Page

ROOT = Path(__file__).parents[1]
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with open("ran", "a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
time.sleep(60 * ("sleep" in sys.argv))
sys.exit(3 * ("fail" in sys.argv))
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs stages of a program that notes its arguments, and returns what has been noted by all runs."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "program.py").write_text(PROGRAM)
    monkeypatch.setattr(pipeline, "ROOT", tmp_path)
    monkeypatch.setattr(pipeline, "write_loop_report", lambda folder, runs, seconds: (folder, [f"took {len(seconds)}"]))

    def run(*stages):
        todo = [Stage(f"stage {i}", "program.py", tuple(words.split())) for i, words in enumerate(stages)]
        monkeypatch.setattr(pipeline, "stages", lambda config, folder: todo)
        config = get_config()
        config.workdir = str(tmp_path / "work")
        pipeline.run(config)
        return (tmp_path / "ran").read_text().splitlines()

    return run


def test_what_is_done_is_skipped_until_its_arguments_change(run, capsys):
    assert run("a", "b 1") == ["a", "b 1"]
    assert run("a", "b 1") == ["a", "b 1"]
    assert run("a", "b 2", "c") == ["a", "b 1", "b 2", "c"]
    shown = capsys.readouterr().out
    assert [int(count) for count in re.findall(r"took (\d)", shown)] == [2, 2, 3]
    assert "[2/3] stage 1\n" in shown


def test_a_stage_that_fails_is_named_with_its_command(run, tmp_path):
    with pytest.raises(StageFailedError, match=r"stage 1: ended with code 3\. Alone: ") as error:
        run("a", "fail 'twice'", "c")
    command = shlex.split(str(error.value).partition("Alone: ")[2])
    assert subprocess.run(command, cwd=tmp_path).returncode == 3
    assert run("a", "b", "c") == ["a", "fail 'twice'", "fail 'twice'", "b", "c"]


def test_sigterm_ends_the_stage_and_the_next_run_goes_on_with_it(run, tmp_path):
    def stop():
        while not (tmp_path / "ran").exists() or "sleep" not in (tmp_path / "ran").read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run("a", "sleep", "c")
    thread.join()
    assert run("a", "b", "c") == ["a", "sleep", "b", "c"]


SMALL = {
    "labelled": 5, "unlabelled": 5, "held_out": 2, "record": ("seconds=6.0",), "idm.minutes": (0.1, 0.3),
    "idm.steps": (3, 4), "policy.minutes": (0.2,), "label": ("span=3", "batch=2", "films=1", "choice=sample"),
    "train_idm": ("optimizer.warmup_steps=1", "data.batch=4", "data.valid_batch=4", "evaluate_every=2"),
    "train_policy": ("optimizer.warmup_steps=1", "steps=4", "data.batch=8", "data.valid_batch=8", "evaluate_every=2"),
}  # fmt: skip


@pytest.mark.slow  # two to four minutes, most of them compiling
def test_the_whole_loop_in_small(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    flags = [f"--config.{field}={value}" for field, value in SMALL.items()]
    command = [sys.executable, "launch/pipeline.py", f"--config.workdir={tmp_path}", *flags]

    def run():
        return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout

    first = run()
    stages = re.findall(r"^\[\d+/(\d+)\] (.*)$", first, re.MULTILINE)
    assert [int(of) for of, _ in stages] == [len(stages)] * len(stages)
    assert [name.split()[0] for _, name in stages] == [*["record"] * 2, *["prepare"] * 2, *["train"] * 2,
                                                       *["label"] * 2, *["clone"] * 4]  # fmt: skip
    verdicts = re.findall(r"^(?:yes|NO ) .*: .*\d.*$", first, re.MULTILINE)
    assert len(verdicts) >= 6
    assert first.splitlines()[-1] == f"figures and films: {tmp_path / 'report.html'}"

    page = Page((tmp_path / "report.html").read_text())
    assert page.text("dt") == [name for _, name in stages]
    assert all(re.fullmatch(r"\d+ s", taken) for taken in page.text("dd"))
    assert page.text("h2")[0] == "Does the loop hold?"
    assert page.tags.count("video") == 2
    sources = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert all(source.startswith("data:") for source in sources)

    second = run()
    assert not re.search(r"^\[\d+/", second, re.MULTILINE)
    assert re.findall(r"^(?:yes|NO ) .*: .*\d.*$", second, re.MULTILINE) == verdicts
