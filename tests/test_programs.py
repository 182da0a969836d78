"""Programs that tests fork from a server behave as those that are started from a shell."""

import os
import signal
import subprocess
import sys

from tests.programs import ROOT, Program, run


def test_errors_are_printed_equally():
    flags = ["--config.recordings=nowhere", "--config.out=somewhere"]
    command = [sys.executable, "launch/prepare.py", *flags]
    by_shell = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run("prepare", *flags, status=1) == by_shell.stdout
    assert by_shell.returncode == 1
    assert "nowhere" in by_shell.stdout


def test_a_program_is_stopped_by_a_signal_and_has_its_own_session(tmp_path):
    os.mkfifo(tmp_path / "pipe")  # opening it blocks
    program = Program("prepare", [f"--config={tmp_path / 'pipe'}"], os.environ)
    while program.poll() is None and os.getpgid(program.pid) != program.pid:
        pass
    os.killpg(program.pid, signal.SIGKILL)
    assert program.wait() == -signal.SIGKILL
