"""Sweeps as tasks of a real Ray cluster on this machine, with real training."""

import os
import signal

import pytest

from tests import programs
from tests.programs import ROOT
from tests.sweeps.test_sweep import end_at_first_checkpoint, real_sweep, starts

pytest.importorskip("ray")


@pytest.mark.slow  # Ray looks for the cluster for some seconds
def test_a_cluster_that_is_not_there_is_named(dataset_dir, tmp_path):
    flags = real_sweep(tmp_path / "mine.py", tmp_path / "sweep", dataset_dir)
    output = programs.run("sweep", *flags, "--config.ray_address=auto", status=1)
    assert "config.ray_address is 'auto', where no cluster of Ray answers" in output
    assert "Traceback" not in output


@pytest.mark.slow  # starts a cluster, and one task
def test_a_run_that_fails_ends_the_sweep_with_its_message(dataset_dir, tmp_path):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    flags = real_sweep(tmp_path / "mine.py", tmp_path / "sweep", dataset_dir)
    flags += ["--config.ray_address=local", "--config.ray_resources.num_cpus=0.5", "--config.index=9"]
    output = programs.run("sweep", *flags, status=1, PYTHONPATH=os.pathsep.join(paths))
    assert "config.index is '9': it must be a run, 0 to 1" in output
    file = tmp_path / "mine.py"
    file.write_text(file.read_text().replace("steps=12", "steps=0"))
    output = programs.run("sweep", *flags[:-1], status=1, PYTHONPATH=os.pathsep.join(paths))
    assert "ended with code 1. Run it alone" in output
    last = output.rstrip().splitlines()[-1]
    assert last.startswith("error: a task of Ray failed, whose output is above: status 1 of ")
    assert last.endswith("Run the same command again to resume")


@pytest.mark.slow  # two minutes, most of it compiling
def test_tasks_of_a_cluster_are_stopped_resumed_and_equal_to_processes_of_this_machine(dataset_dir, tmp_path):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {"PYTHONPATH": os.pathsep.join(paths), "XLA_FLAGS": programs.xla_flags(devices=1)}
    folder, here = tmp_path / "cluster", tmp_path / "here"
    flags = real_sweep(tmp_path / "mine.py", folder, dataset_dir)
    on_ray = [*flags, "--config.ray_address=local", "--config.ray_resources.num_cpus=0.5"]
    status, output = end_at_first_checkpoint(on_ray, 0, folder, signal.SIGTERM, environment)
    assert status == 130, output
    assert "saves its state" in output
    saved = [*folder.glob("policy-joint-seed0-*/checkpoints/2")]
    assert len(saved) == 1
    output = programs.run("sweep", *on_ray, **environment)
    assert output.splitlines()[-1].startswith("2 of 2 runs are done; results: ")  # of this process, not of a task
    assert starts(programs.run("sweep", *on_ray, **environment)) == []

    programs.run("sweep", *flags, f"--config.workdir={here}", **environment)
    for seed in range(2):
        (one,), (other,) = (path.glob(f"policy-joint-seed{seed}-*/metrics.jsonl") for path in (folder, here))
        assert one.read_bytes() == other.read_bytes()
    names = [{path.name for path in (one / "mine").iterdir()} for one in (folder, here)]
    assert names[0] == names[1] >= {"table.parquet", "report.html"}
