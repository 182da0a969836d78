"""Fixtures that train through the launcher, as a user does: own processes, real files."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.programs import ROOT, Program, xla_flags


class Launcher:
    """Starts launch/train.py on the smallest model."""

    def __init__(self, config, dataset_dir):
        self.flags = [
            f"--config=configs/{config}", "--config.model.preset=nano", "--config.model.dtype=float32",
            "--config.model.remat=none", f"--config.data.train={dataset_dir}", f"--config.data.valid={dataset_dir}",
            "--config.data.batch=8", "--config.data.valid_batch=8", "--config.data.length=6", "--config.data.workers=0",
            "--config.data.valid_workers=0",
            "--config.steps=10",
            "--config.optimizer.warmup_steps=2", "--config.optimizer.learning_rate=0.0002", "--config.log_every=1",
            "--config.evaluate_every=5", "--config.save_every=4", "--config.report=False",
        ]  # fmt: skip

    def start(self, workdir, *flags, devices=1, processes=1, bare=False):
        """Starts a run of `processes` processes with `devices` devices each; `bare`: without the default flags."""
        environment = os.environ | {"XLA_FLAGS": xla_flags(devices)}
        flags = [*([] if bare else self.flags), *flags, f"--config.workdir={workdir}"]
        if processes == 1:
            return Program("train", flags, environment)
        command = [sys.executable, "launch/pods/local.py", f"--processes={processes}", "--", "launch/train.py", *flags]
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            start_new_session=True,
        )  # fmt: skip

    def finish(self, process, expected=0):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == expected, output[-4000:]
        return output

    def run(self, workdir, *flags, expected=0, **options):
        return self.finish(self.start(workdir, *flags, **options), expected)


def wait_until(condition, process, seconds=240):
    """Polls until `condition()`; fails if the process ends before."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.002)


def kill(process):
    """SIGKILL, as by the kernel or a scheduler: no warning, the workers stay."""
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="session")
def launcher(dataset_dir):
    return Launcher("foundation.py:71m", dataset_dir)


@pytest.fixture(scope="session")
def idm_launcher(dataset_dir):
    """Trains an inverse dynamics model, its windows augmented."""
    return Launcher("idm.py:paper", dataset_dir)


@pytest.fixture(scope="session")
def uninterrupted(launcher, tmp_path_factory):
    """Work directory of an uninterrupted run of ten steps."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    launcher.run(workdir)
    return workdir


@pytest.fixture(scope="session")
def uninterrupted_idm(idm_launcher, tmp_path_factory):
    """The same for an inverse dynamics model."""
    workdir = tmp_path_factory.mktemp("uninterrupted_idm")
    idm_launcher.run(workdir)
    return workdir
