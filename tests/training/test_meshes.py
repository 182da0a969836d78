"""The same training on any mesh and any number of processes, and checkpoints that move between them."""

import json
import signal
import socket

import numpy as np
import pytest

from .conftest import wait_until

MESHES = {"8,1,1": (8, 1, 1), "2,4,1": (2, 4, 1), "2,2,2": (2, 2, 2)}


def figures(workdir, name="train/loss"):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def assert_same_training(workdir, undisturbed):
    assert len(figures(workdir)) == 10
    np.testing.assert_allclose(figures(workdir), figures(undisturbed), rtol=1e-5)
    first_gradient = [figures(folder, "train/gradient_norm")[0] for folder in (workdir, undisturbed)]
    np.testing.assert_allclose(*first_gradient, rtol=1e-5)


def mesh_flags(sizes):
    return [f"--config.mesh.{axis}={size}" for axis, size in zip(("data", "fsdp", "tensor"), sizes, strict=True)]


def start_two(launcher, workdir, sizes, *flags):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = [f"--config.distributed.coordinator=127.0.0.1:{port}", "--config.distributed.num_processes=2"]
    return [
        launcher.start(workdir, *mesh_flags(sizes), *shared, f"--config.distributed.process_id={i}", *flags, devices=4)
        for i in range(2)
    ]


@pytest.mark.parametrize("mesh", MESHES)
def test_eight_devices_compute_what_one_does(launcher, undisturbed, tmp_path, mesh):
    launcher.run(tmp_path, *mesh_flags(MESHES[mesh]), devices=8)
    assert_same_training(tmp_path, undisturbed)


def test_two_processes_and_a_move_to_another_mesh(launcher, undisturbed, tmp_path):
    processes = start_two(launcher, tmp_path, (2, 2, 2))
    wait_until(lambda: (tmp_path / "metrics.jsonl").exists() and len(figures(tmp_path)) >= 2, processes[0])
    for process in processes:  # as a scheduler stops a job
        process.send_signal(signal.SIGTERM)
    outputs = [launcher.finish(process) for process in processes]
    assert "asked to stop: saving step" in outputs[0]

    output = launcher.run(tmp_path, *mesh_flags((2, 4, 1)), devices=8)
    assert "resumed from step" in output
    assert_same_training(tmp_path, undisturbed)


@pytest.mark.slow  # the test above runs two processes too
def test_two_processes_of_four_devices(launcher, undisturbed, tmp_path):
    for process in start_two(launcher, tmp_path, (2, 4, 1)):
        launcher.finish(process)
    assert_same_training(tmp_path, undisturbed)
