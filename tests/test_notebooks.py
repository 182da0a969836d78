"""The notebooks run from their first cell to their last, without Jupyter, and are committed without outputs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import xla_flags

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# Not as a file: the processes that a cell starts would import it. In Jupyter there is none either.
RUN_CELLS = """
import json, sys
for number, cell in enumerate(json.load(open(sys.argv[1]))["cells"]):
    if cell["cell_type"] == "code":
        exec(compile("".join(cell["source"]), f"{sys.argv[1]}, cell {number}", "exec"), globals())
"""


@pytest.fixture
def run(tmp_path):
    """Runs a notebook's code in a folder as of the repository, and returns what it prints."""
    for folder in ("configs", "vpt_jax"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    (tmp_path / "notebooks").mkdir()
    environment = os.environ | {"XLA_FLAGS": xla_flags(devices=1), "MPLBACKEND": "Agg"}
    environment.pop("PYTHONPATH", None)  # a notebook finds the repository by itself

    def run_notebook(name):
        command = [sys.executable, "-c", RUN_CELLS, str(ROOT / "notebooks" / f"{name}.ipynb")]
        done = subprocess.run(
            command, cwd=tmp_path / "notebooks", env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_have_no_outputs(path):
    notebook = json.loads(path.read_text())
    assert notebook["nbformat"] == 4
    assert notebook["cells"][0]["source"][0].startswith("# ")
    assert not [cell for cell in notebook["cells"] if cell.get("outputs") or cell.get("execution_count")]


def test_a_video_is_labelled_by_an_untrained_model(run, tmp_path):
    output = run("label_your_video")
    assert "labels for runs/label_your_video/clip.mp4" in output
    assert "buttons (60, 20), camera (60, 2), confidence (60,)" in output
    assert (tmp_path / "notebooks" / "runs" / "label_your_video" / "labelled.mp4").stat().st_size > 0


@pytest.mark.slow  # half a minute of compiling
def test_the_module_is_trained(run):
    output = run("module_in_your_code")
    losses = [float(loss) for loss in output.partition("losses ")[2].splitlines()[0].split()]
    assert losses == sorted(losses, reverse=True)
    sharded, single = output.partition("loss ")[2].splitlines()[0].split(", and on one device ")
    assert float(sharded) == pytest.approx(float(single), abs=1e-4)


@pytest.mark.slow  # two minutes
def test_the_loop_runs_and_its_model_labels_a_video(run):
    output = run("the_loop_in_miniature")
    assert "2,400 labelled frames" in output
    assert "films of all agents: runs/miniature/play/report.html" in output
    assert "labels for runs/miniature/videos/train/" in run("label_your_video")
