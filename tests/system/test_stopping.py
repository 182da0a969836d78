"""Graceful shutdown: programs that are asked to stop end within seconds, with their workers (attack M6, L4)."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.cluster import run_together
from vpt_jax.system import stopping, workers

ROOT = Path(__file__).parents[2]

# A program that prints when it is at work, and then takes a long time.
PROGRAM = """
import os, signal, sys, time
from vpt_jax.system import command_line, stopping, workers

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup, and an ignored signal stays ignored

def sleep_long(folder):
    with open(folder + "/begun.writing", "w") as file:
        file.write(str(os.getpid()))
    os.rename(folder + "/begun.writing", folder + "/begun")
    time.sleep(60)

def pool(folder):
    with workers.worker_pool(1) as pool:
        pool.submit(sleep_long, folder).result()

def blocked(folder):  # as in a compilation: the main thread runs no handler before it is over
    signal.pthread_sigmask(signal.SIG_BLOCK, stopping.SIGNALS)  # so another thread gets the signal
    print("at work", flush=True)
    time.sleep(60)

def stubborn(folder):
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        time.sleep(60)

def deferred(folder):
    with stopping.deferred() as asked:
        print("at work", flush=True)
        while not asked:
            time.sleep(0.01)
        print("ends by itself", flush=True)

def compiling(folder):  # training, while XLA compiles: its handler cannot be called
    def note(number, frame):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, note)
    with stopping.registered_handler(note):
        blocked(folder)

if __name__ == "__main__":
    stopping._GRACE_SECONDS = 0.5
    words, sys.argv[1:] = sys.argv[1:], []
    command_line.run_plain(lambda: globals()[words[0]](words[1]))
"""


def start(tmp_path, what, **options):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(program), what, str(tmp_path)], env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_workers_are_stopped_during_their_tasks(tmp_path, number):
    """A stop does not wait until a long video is decoded."""
    process = start(tmp_path, "pool")
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.02)
    start_time = time.monotonic()
    os.killpg(process.pid, number)  # as a scheduler does: to the workers too
    _, message = process.communicate(timeout=30)
    assert time.monotonic() - start_time < 30  # the task would take a minute
    assert process.returncode == 130
    assert "run the same command again to resume" in message
    assert "died" not in message
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "begun").read_text()), 0)


@pytest.mark.parametrize("what", ["blocked", "stubborn"])
def test_work_that_cannot_be_interrupted_is_named_and_ended(tmp_path, what):
    process = start(tmp_path, what)
    assert process.stdout.readline() == "at work\n"
    time.sleep(1)  # until it is blocked, for much longer than this
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "stopping: waiting for" in message
    assert "a second Ctrl-C" in message


def test_a_compilation_of_training_is_named_and_ended_by_a_second_signal(tmp_path):
    process = start(tmp_path, "compiling")
    assert process.stdout.readline() == "at work\n"
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline() == "\n"
    assert "stopping: waiting for" in process.stderr.readline()
    process.send_signal(signal.SIGHUP)  # never a second one
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_a_run_that_has_recorded_a_signal_can_save(monkeypatch):
    listener, notified = socket.socketpair()
    handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT), note := Mock())

    def compiled(text):  # after the message the compilation ends, and the handler is called
        handlers[signal.SIGTERM] = signal.SIG_DFL
        notified.send(bytes([signal.SIGINT]))
        notified.close()

    monkeypatch.setattr(stopping, "_MESSAGE_DELAY", 0.01)
    monkeypatch.setattr(stopping, "_print_message", printed := Mock(side_effect=compiled))
    monkeypatch.setattr(stopping, "exit_now", exited := Mock(side_effect=SystemExit))
    monkeypatch.setattr(stopping.signal, "getsignal", lambda number: handlers[number])
    # All arrive before the message is printed, so none counts as a second signal.
    notified.send(bytes([signal.SIGTERM, signal.SIGHUP, signal.SIGTERM]))
    with stopping.registered_handler(note), pytest.raises(IndexError), listener:
        stopping._watch(listener)
    printed.assert_called_once()
    exited.assert_not_called()


def test_a_deferred_block_ends_by_itself_with_status_0(tmp_path):
    process = start(tmp_path, "deferred")
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert (output, process.returncode) == ("ends by itself\n", 0)


def test_a_hangup_after_another_signal_is_not_a_second_one(monkeypatch):
    """Shells send SIGHUP twice, systemd after SIGTERM: a run that saves must not be killed by it."""
    asked = []
    monkeypatch.setattr(stopping._State, "received", [])
    monkeypatch.setattr(stopping, "exit_now", asked.append)
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        stopping._handle_sighup(signal.SIGHUP, None)  # raised as SIGTERM, for its handler
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as `loop.StopSignal` does then
        stopping._handle_sighup(signal.SIGHUP, None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert asked == [signal.SIGTERM]


def test_a_hangup_goes_to_a_native_handler_that_python_cannot_query(monkeypatch):
    """JAX's handler, in a job of several processes: once a SIGHUP of one process ended the job without saving."""
    raised = []
    monkeypatch.setattr(stopping._State, "received", [])
    monkeypatch.setattr(stopping._State, "sigterm_delegated", False)
    monkeypatch.setattr(stopping.signal, "raise_signal", raised.append)
    before = signal.signal(signal.SIGTERM, stopping._interrupt)  # which `getsignal` still returns
    try:
        with pytest.raises(KeyboardInterrupt):
            stopping._handle_sighup(signal.SIGHUP, None)
        assert raised == []
        stopping._State.received.clear()
        stopping.delegate_sigterm()
        stopping._handle_sighup(signal.SIGHUP, None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert raised == [signal.SIGTERM]
    assert stopping._State.received == []  # children must live on: training needs data until it saves


def test_the_watcher_thread_leaves_a_hangup_to_a_native_handler(monkeypatch):
    """It would end the process after five seconds, during the save."""
    listener, notified = socket.socketpair()
    monkeypatch.setattr(stopping._State, "sigterm_delegated", True)
    monkeypatch.setattr(stopping, "exit_now", exited := Mock(side_effect=SystemExit))
    monkeypatch.setattr(stopping.signal, "getsignal", lambda number: stopping._interrupt)
    notified.send(bytes([signal.SIGHUP, signal.SIGHUP, signal.SIGTERM]))
    notified.close()
    with pytest.raises(IndexError), listener:  # there is no further signal
        stopping._watch(listener)
    exited.assert_not_called()


HUNG_UP = """
import os, signal, sys, time
from vpt_jax import parallel
from vpt_jax.system import stopping
coordinator, number = sys.argv[1], int(sys.argv[2])
stopping.install()
parallel.start_processes(coordinator, 2, number)
from vpt_jax.training import loop
with loop.StopSignal() as stop:
    if number == 1:
        os.kill(os.getpid(), signal.SIGHUP)
    deadline = time.monotonic() + 60
    while not stop() and time.monotonic() < deadline:
        time.sleep(0.01)
print("told:", stop.received, flush=True)
"""


@pytest.mark.slow
def test_a_hangup_of_one_process_stops_all_of_a_job():
    outputs = run_together(HUNG_UP, timeout=150)
    assert [output.splitlines()[-1] for output in outputs] == ["told: True"] * 2


def test_an_error_of_one_task_does_not_wait_for_the_others():
    def fail():
        with workers.worker_pool(1) as pool:
            futures.append(pool.submit(time.sleep, 60))
            raise ZeroDivisionError

    futures = []
    with pytest.raises(ZeroDivisionError):
        fail()
    assert futures[0].exception() is not None
