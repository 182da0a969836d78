"""Watchdog timer: a hanging step ends its process, so that a scheduler can restart it (scale 1.3)."""

import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import repeat
from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from configs import foundation, rl_doom
from tests.cluster import ROOT, free_port
from vpt_jax.training import loop, setup
from vpt_jax.training.goodput import Goodput
from vpt_jax.training.metrics_log import MetricsLog, Progress, Work
from vpt_jax.training.ppg import setup as ppg

from .conftest import kill, wait_until

STUCK = """
import threading
from vpt_jax.training.hang import hang_limit

def wait_for_the_others():
    threading.Event().wait()

with hang_limit({minutes}) as heartbeat:
    for _ in range(3):
        heartbeat()
    {what}
print("left")
"""


def run(minutes, what):
    program = STUCK.format(minutes=minutes, what=what)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100)


def test_a_hang_ends_with_status_1_and_the_stacks_of_all_threads():
    ended = run(0.2 / 60, "wait_for_the_others()")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Timeout (")
    assert "wait_for_the_others" in ended.stderr


@pytest.mark.parametrize("minutes", [0, 60])
def test_a_program_that_does_not_hang_ends_normally(minutes):
    ended = run(minutes, "pass")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "left\n", "")


def test_the_heartbeat_is_called_after_every_step_evaluation_and_save(tmp_path, monkeypatch):
    done, limits = [], []

    @contextmanager
    def limit(minutes):
        limits.append(minutes)
        yield lambda: done.append("heartbeat")

    monkeypatch.setattr(loop, "hang_limit", limit)
    loop.Trainer(
        schedule=loop.Schedule(steps=4, log_every=1, evaluate_every=2, save_every=4),
        train_step=lambda state, batch: (done.append("step"), (state, {"loss": jnp.zeros(())}))[1],
        batches=repeat(0),
        stop=loop.StopSignal(),
        evaluate=lambda params: done.append("evaluation") or {},
        episodes=lambda step: [],
        checkpoints=SimpleNamespace(save=lambda *_: done.append("save"), wait=lambda: None),
        outputs=loop.Outputs(
            MetricsLog(tmp_path, 0, True), Progress(0, 4, Work(1), True), Goodput(tmp_path, 0, 0.0, True)
        ),
        hang_minutes=7.5,
    ).run(SimpleNamespace(step=0, params=None))
    assert limits == [7.5]
    assert " ".join(done) == " ".join(
        ["step heartbeat", "step heartbeat evaluation heartbeat"] * 2 + ["save heartbeat"]
    )


@pytest.mark.parametrize("value", [-1.0, float("inf"), float("nan")])
@pytest.mark.parametrize(("config", "check"), [(foundation, setup.check), (rl_doom, ppg.check)])
def test_an_invalid_limit_is_refused(config, check, value):
    config = config.get_config()
    config.hang_minutes = value
    with pytest.raises(setup.ConfigError, match=r"config\.hang_minutes is .* or 0 for no limit"):
        check(config, setup.make_mesh(config))


@pytest.mark.slow
def test_a_process_ends_when_its_peer_is_stopped(launcher, tmp_path):
    """SIGSTOP of one of two processes: without the limit, the other waits forever in a collective."""
    together = [f"--config.distributed.coordinator=127.0.0.1:{free_port()}", "--config.distributed.num_processes=2"]
    flags = [*together, "--config.hang_minutes=0.2", "--config.steps=100000", "--config.evaluate_every=100000",
             "--config.save_every=100000"]  # fmt: skip
    processes = [launcher.start(tmp_path, *flags, f"--config.distributed.process_id={i}") for i in range(2)]
    try:
        metrics = tmp_path / "metrics.jsonl"
        wait_until(lambda: metrics.exists() and metrics.read_text().count("train/loss") > 3, processes[0])
        processes[1].send_signal(signal.SIGSTOP)
        output = launcher.finish(processes[0], expected=1)
        assert "Timeout (" in output
        assert "loop.py" in output
    finally:
        for process in processes:
            kill(process)
