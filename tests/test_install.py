"""The package as installed from a wheel: used from another folder, without the repository."""

import os
import re
import shutil
import subprocess
import sysconfig
import venv
import zipfile

import pytest

from tests.curation.clean_filter.conftest import new_idm
from tests.openai.test_convert import policy_files
from tests.programs import ROOT
from vpt_jax.actions.minerl import ENV_KEYS
from vpt_jax.openai.convert import import_weights

PROGRAM = """
import sys
import numpy as np
import vpt_jax
assert vpt_jax.__file__.startswith(sys.prefix), vpt_jax.__file__
assert vpt_jax.load_policy("policy").frame_shape == (128, 128, 3)
action = vpt_jax.PolicyAgent.load("policy").act({"pov": np.zeros((360, 640, 3), np.uint8)})
labels = vpt_jax.VideoLabeller("idm").label("clip.mp4")
print(len(action), len(labels.buttons))
"""


@pytest.mark.slow
def test_an_installed_package_works_without_the_repository(tmp_path):
    source, place = tmp_path / "source", tmp_path / "place"
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        source.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, source)
    for name in ("vpt_jax", "configs"):  # vpt_jax/configs is a link
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip = [python, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", f"--wheel-dir={tmp_path}", source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = [name for name in zipfile.ZipFile(wheel).namelist() if "configs/" in name]
    assert sorted(names) == sorted(f"vpt_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py"))
    subprocess.run([*pip, "install", "--no-deps", wheel], check=True)
    place.mkdir()
    policy_files(place, "nano", (128, 128, 3), scale=0.3)
    import_weights(place / "a.model", place / "a.weights", place / "policy")
    new_idm(place / "idm", 32, "nano")
    shutil.copy(ROOT / "tests" / "clips" / "build_gate_5.mp4", place / "clip.mp4")
    # Dependencies are those of this environment; .pth files of folders in PYTHONPATH have no effect.
    environment = os.environ | {"PYTHONPATH": sysconfig.get_path("purelib"), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([python, "-c", PROGRAM], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(len(ENV_KEYS)), "16"]  # keys; 0.8 seconds at 20 frames per second

    def command(name, *flags):
        line = [tmp_path / "env" / "bin" / name, *flags]
        done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    output = command("vpt-label", "--help")
    assert "vpt-label --config.videos=VIDEOS --config.idm=RUN --config.out=DATASET" in output
    assert "--config.num_shards=1\n      Sharding over hosts" in output
    assert "Size of the policy" in command("vpt-train", "--config=foundation:71m", "--help")
    (place / "videos").mkdir()
    (place / "clip.mp4").rename(place / "videos" / "clip.mp4")
    command("vpt-label", "--config.videos=videos", "--config.idm=idm", "--config.out=labels", "--config.batch=1")
    assert re.search(r"\b16\b", command("vpt-data", "stats", "--config.data=labels"))
