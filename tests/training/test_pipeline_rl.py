"""The reinforcement learning pipeline on a small scale, as one command."""

import os
import re
import subprocess
import sys

import pytest

from tests.html_page import Page
from tests.training.conftest import ROOT

SMALL = {
    "steps": 2, "episodes": 3,
    "train": ("model.preset=nano", "height=32", "width=32", "num_envs=2", "unroll_length=4", "updates_per_rollout=2",
              "game.arguments.seconds=0.5", "game.arguments.height=36", "game.arguments.width=64"),
    "evaluate": ("num_envs=2", "game.arguments.seconds=0.5", "game.arguments.height=36", "game.arguments.width=64"),
}  # fmt: skip


@pytest.mark.slow  # two minutes, most of them compiling
def test_reinforcement_learning_pipeline_on_a_small_scale(uninterrupted, tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1", "JAX_PLATFORMS": "cpu"}
    flags = [f"--config.{field}={value}" for field, value in SMALL.items()]
    command = [sys.executable, "launch/pipeline_rl.py", f"--config.workdir={tmp_path}", *flags]

    def run(policy=uninterrupted, check=True):
        flags = [*command, f"--config.policy={policy}"]
        return subprocess.run(flags, cwd=ROOT, env=environment, check=check, capture_output=True, text=True)

    first = run().stdout
    assert len(re.findall(r"^\[\d/4\] ", first, re.MULTILINE)) == 4
    claims = re.findall(r"^(?:yes|NO ) .*: .*\d.*$", first, re.MULTILINE)
    assert len(claims) == 3
    page = Page((tmp_path / "report.html").read_text())
    assert {"cloned", "fine-tuned", "without KL penalty", "from scratch", "random", "scripted"} <= set(page.text("th"))
    assert page.tags.count("video") == 18

    second = run().stdout
    assert not re.search(r"^\[\d/", second, re.MULTILINE)
    assert re.findall(r"^(?:yes|NO ) .*: .*\d.*$", second, re.MULTILINE) == claims
    assert "holds no checkpoint: run `make demo` first" in run(tmp_path / "playing", check=False).stderr
