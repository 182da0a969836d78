"""Metrics files of a run, and its progress display."""

import pytest

from vpt_jax.training.metrics_log import MetricsLog, Progress, Work, read_metrics


def write(workdir, start, steps, quiet=False):
    log = MetricsLog(workdir, start, quiet)
    for step in steps:
        log.write(step, {"loss": 10.0 * start + step})
    log.close()


def test_metrics_after_the_checkpoint_are_removed(tmp_path):
    write(tmp_path, 0, (1, 2, 3))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "lo')  # the process was killed here
    assert len(read_metrics(tmp_path)) == 3
    write(tmp_path, 2, (3, 4))
    write(tmp_path, 1, (5,), quiet=True)
    assert read_metrics(tmp_path) == [{"step": step, "loss": loss} for step, loss in enumerate((1, 2, 23, 24), 1)]
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("quiet", [False, True])
def test_progress_is_printed_in_lines_without_a_terminal(capsys, quiet):
    progress = Progress(2, 4, Work(frames=100), quiet=quiet, seconds=0.0)
    assert progress.step(3, {"loss": 1.5}) == {}  # compiling
    speeds = progress.step(4, {"loss": 1.25})
    progress.evaluated(4, {"valid/nll": 1.5, "valid/frames": 7, "marginal/nll": 2.0}, seconds=0.1)
    progress.close()
    shown = capsys.readouterr().out
    assert speeds["speed/frames_per_second"] > 0
    assert speeds["speed/input_wait"] == 0
    if quiet:
        assert not shown
    else:
        assert shown.startswith("step 3/4  loss 1.500  after 0 s, most of it compiling\nstep 4/4  loss 1.250  ")
        assert shown.endswith("0:00:00 left\nstep 4  held-out loss: valid 1.500, marginal 2.000\n")


def test_speeds_equal_manual_values():
    work = Work(frames=100, flops_per_frame=3e6, devices=4, peak_flops=1e9)
    speeds = work.speeds(2.0)
    assert speeds == {
        "speed/frames_per_second": 200, "speed/frames_per_second_per_device": 50, "speed/mfu": pytest.approx(0.15)
    }  # fmt: skip
    assert work.describe(speeds) == "200 frames/s, 50 per device, MFU 15.0%"
    assert Work(frames=100).describe(Work(frames=100).speeds(2.0)) == "200 frames/s"
