"""Goodput: seconds by category over several starts, on a fake clock."""

import json
import time
from contextlib import suppress

import pytest

from vpt_jax.training.goodput import CATEGORIES, Goodput


@pytest.fixture
def clock(monkeypatch):
    """Fake monotonic clock; returns the function that advances it."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def spend(goodput, clock, **seconds):
    for kind, duration in seconds.items():
        with goodput.measure(kind):
            clock(duration)


def test_a_killed_and_restarted_run_counts_lost_steps(clock, tmp_path):
    first = Goodput(tmp_path, step=0, start_time=95.0, quiet=False)
    spend(first, clock, step=20.0)  # compiles
    spend(first, clock, input=1.0)
    for _ in range(9):
        spend(first, clock, step=2.0)
    spend(first, clock, evaluation=3.0, checkpoint=1.0)
    assert first.write(10)["goodput/step"] == pytest.approx(18 / 48)
    assert str(first) == (
        "time 0:00:48 in 1 start: 41.7% compile, 37.5% step, 10.4% start, 6.2% evaluation, 2.1% input, 2.1% checkpoint"
    )

    second = Goodput(tmp_path, step=5, start_time=time.monotonic() - 5.0, quiet=False)  # the checkpoint was of step 5
    spend(second, clock, step=20.0)
    second.write(6)
    stored = json.loads((tmp_path / "goodput.json").read_text())
    assert stored == {
        "step": 6, "starts": 2,
        "seconds": {"start": 10.0, "compile": 40.0, "step": 9.0, "input": 1.0, "evaluation": 3.0, "checkpoint": 1.0,
                    "lost": 9.0},
    }  # fmt: skip
    assert list(stored["seconds"]) == list(CATEGORIES)


def test_failed_work_is_counted_and_a_quiet_process_writes_no_file(clock, tmp_path):
    goodput = Goodput(tmp_path, step=0, start_time=100.0, quiet=True)
    with suppress(OSError), goodput.measure("checkpoint"):
        clock(4.0)
        raise OSError("the disk is full")
    assert goodput.write(1)["goodput/checkpoint"] == 1.0
    goodput.add("step", 30 * 3600)
    assert str(goodput).startswith("time 1 day, 6:00:04 in 1 start: 100.0% step")
    assert not list(tmp_path.iterdir())
