"""The README's code blocks run one after the other, as for a reader who copies them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import record_episode
from tests.openai.test_convert import policy_files
from vpt_jax.training.checkpoints import load_policy
from vpt_jax.video import decode

ROOT = Path(__file__).parents[1]
SECTIONS = ("Use the released weights", "Fine-tune on your recordings", "Import a module into your own JAX code")


def blocks():
    """Language and text of the blocks of these sections, in order."""
    text = (ROOT / "README.md").read_text()
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    return [block for name in SECTIONS for block in re.findall(r"```(sh|python)\n(.*?)```", sections[name], re.DOTALL)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder like the repository, with the files that the blocks name: those of a small model, and recordings."""
    place = tmp_path_factory.mktemp("readme")
    for folder in ("launch", "configs", "vpt_jax"):
        (place / folder).symlink_to(ROOT / folder)
    policy_files(place, "nano", scale=0.1)
    for suffix in (".model", ".weights"):
        (place / f"a{suffix}").rename(place / f"foundation-model-1x{suffix}")
    for split, lengths in {"train": (150, 150, 150, 150), "valid": (60,)}.items():
        (place / "RECORDINGS" / split).mkdir(parents=True)
        for number, frames in enumerate(lengths):
            record_episode(place / "RECORDINGS" / split / f"{split}{number}", number, frames)
    return place


@pytest.mark.slow  # two minutes
def test_the_blocks_run_one_after_the_other(place):
    assert [language for language, _ in blocks()] == ["sh", "python", "sh", "python", "python"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(place), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    outputs = []
    for language, block in blocks():
        small = block.replace("fine_tuning.py:71m", "fine_tuning.py:demo --config.model.preset=nano")
        command = ["bash", "-e", "-c", small] if language == "sh" else [sys.executable, "-c", small]
        done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        outputs.append(done.stdout)
    steps = int(re.search(r"doom-0\.mp4: (\d+) steps", outputs[0])[1])
    assert len(list(decode(place / "runs" / "films" / "doom-0.mp4"))) == steps > 100
    assert load_policy(place / "runs" / "tuned").step > 0
    assert outputs[3] == "(2, 8, 8641) (2, 8, 121) (2, 8)\n"
