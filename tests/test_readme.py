"""The README's blocks run one after the other, as somebody who copies them would see it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import record_episode
from tests.openai.test_convert import policy_files
from vpt_jax.training.checkpoints import load_policy
from vpt_jax.video import decode

ROOT = Path(__file__).parents[1]
# Sections in the order of execution: the first block of the README uses what the others make.
SECTIONS = (
    "Train on your own recordings", "Use the released weights", "Fine-tune on your recordings", "Fine-tune in a game",
    "Import a module into your own JAX code", "vpt_jax",
)  # fmt: skip
NOT_RUN = {
    "Try it": "the demos, of half an hour each; tests/demo runs both in small",
}
# Smaller models, fewer steps and episodes than in the README.
SMALL = {
    ". .venv/bin/activate": "#",
    "pip install": "# pip install",  # tests/test_install.py
    "launch/record.py": "launch/record.py --config.splits.train.episodes=3 --config.splits.valid.episodes=1 "
    "--config.splits.test.episodes=0 --config.seconds=6.0",
    "foundation.py:71m": "foundation.py:demo --config.model.preset=nano --config.steps=4 --config.data.length=16 "
    "--config.optimizer.warmup_steps=1",
    "idm.py:paper": "idm.py:demo --config.model.preset=nano --config.steps=4 --config.optimizer.warmup_steps=1",
    "fine_tuning.py:71m": "fine_tuning.py:demo --config.model.preset=nano --config.data.length=16",
    "rl_doom.py": "rl_doom.py --config.steps=1 --config.num_envs=2 --config.unroll_length=8 "
    "--config.updates_per_rollout=2",
    'config = foundation.get_config("71m")': 'config = foundation.get_config("demo")\n'
    'config.update_from_flattened_dict({"model.preset": "nano", "steps": 4, "data.length": 16,\n'
    '    "optimizer.warmup_steps": 1})',
    "--config.model.preset=1x": "--config.model.preset=nano",
    "launch/evaluate.py": "launch/evaluate.py --config.episodes=2 --config.num_envs=2 "
    "--config.game.arguments.seconds=2.0",
}


def sections():
    """Blocks of each section, each with its language; the text above the first heading is the section `vpt_jax`."""
    text = (ROOT / "README.md").read_text()
    found = re.findall(r"^##? (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return {name: re.findall(r"```(\w+)\n(.*?)```", body, re.DOTALL) for name, body in found}


def reduce(block):
    """The block with smaller models and shorter runs."""
    for text, replacement in SMALL.items():
        block = block.replace(text, replacement)
    return block


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like the repository, with OpenAI's two files of a small model, a folder of videos, and a video."""
    place = tmp_path_factory.mktemp("readme")
    for folder in ("launch", "configs", "vpt_jax"):
        (place / folder).symlink_to(ROOT / folder)
    policy_files(place, "nano", scale=0.1)
    for suffix in (".model", ".weights"):
        (place / f"a{suffix}").rename(place / f"foundation-model-1x{suffix}")
    (place / "VIDEOS").mkdir()
    record_episode(place / "VIDEOS" / "play", seed=0, frames=400)
    shutil.copy(place / "VIDEOS" / "play.mp4", place / "clip.mp4")
    return place


def test_every_block_is_run_or_named():
    with_blocks = {name for name, blocks in sections().items() if blocks}
    assert with_blocks == {*SECTIONS, *NOT_RUN}


@pytest.mark.slow  # four minutes
def test_the_blocks_run_one_after_the_other(place):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(place), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    outputs = {}
    for name in SECTIONS:
        for language, block in sections()[name]:
            program = ["bash", "-e", "-c"] if language == "sh" else [sys.executable, "-c"]
            done = subprocess.run([*program, reduce(block)], cwd=place, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
            outputs.setdefault(name, []).append(done.stdout)
    steps = int(re.search(r"doom-0\.mp4: (\d+) steps", outputs["Use the released weights"][0])[1])
    assert len(list(decode(place / "runs" / "films" / "doom-0.mp4"))) == steps > 100
    for run in ("mine", "tuned", "rl"):
        assert load_policy(place / "runs" / run).step > 0
    assert (place / "runs" / "play" / "report.html").exists()
    assert (place / "LABELLED" / "report.json").exists()
    assert outputs["Import a module into your own JAX code"][0] == "(2, 8, 8641) (2, 8, 121) (2, 8)\n"
