"""`--help` of the programs: every field of a config with its default, and the comment of its source."""

import re

import pytest

from tests import programs
from tests.programs import ROOT
from vpt_jax.system.config_help import describe_config

FILES = [path for pattern in ("[!_]*.py", "sweeps/*.py") for path in (ROOT / "configs").glob(pattern)]
CONFIGS = sorted(str(path.relative_to(ROOT / "configs")) for path in FILES if path.stem not in ("base", "rl_base"))
VARIANTS = {"foundation.py": ":500m,v5e-256", "idm.py": ":paper", "evaluate.py": "", "play.py": ":video"}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_has_a_comment(name):
    text = describe_config(str(ROOT / "configs" / name) + VARIANTS.get(name, ""))
    entries = re.split(r"^  --config\.", text, flags=re.MULTILINE)[1:]
    assert entries
    assert [entry for entry in entries if "\n      " not in entry] == []


def test_comments_are_those_of_their_fields(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "shared_fields.py").write_text(
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config():\n"
        "    config = ConfigDict()\n"
        "    # Length of\n"
        "    # the run.\n"
        "    config.steps = 3\n"
        "    # Both sides.\n"
        "    config.height = 4\n"
        "    config.width = 5  # pixels\n"
        "\n    config.mesh = ConfigDict({'data': 1})  # devices\n"
        "    return config\n"
    )
    (tmp_path / "mine.py").write_text(
        "import shared_fields\n\n\n"
        "def get_config(variant=''):\n"
        "    config = shared_fields.get_config()\n"
        "    config.steps = 7  # short\n"
        "    config.height, config.width = 16, int(variant)\n"
        "    return config\n"
    )
    assert describe_config(f"{tmp_path / 'mine.py'}:32").splitlines() == [
        "  --config.height=16",
        "      Both sides.",
        "  --config.mesh.data=1",
        "      devices",
        "  --config.steps=7",
        "      Length of the run. short",
        "  --config.width=32",
        "      Both sides. pixels",
    ]


@pytest.mark.parametrize(
    ("line", "call"),
    [
        ("from vpt_jax.configs import rl_doom", "rl_doom.get_config"),
        ("from vpt_jax.configs.rl_doom import get_config as doom", "doom"),
        ("import vpt_jax.configs.rl_doom", "vpt_jax.configs.rl_doom.get_config"),
        ("from configs import rl_doom", "rl_doom.get_config"),  # in the repository's folder
    ],
)
def test_comments_of_imported_configs_are_found_from_any_folder(tmp_path, line, call):
    (tmp_path / "mine.py").write_text(
        f"{line}\n\n\ndef get_config():\n    config = {call}()\n"
        "    # My own.\n    config.steps = 2\n    return config\n"
    )
    text = describe_config(str(tmp_path / "mine.py"))
    expected = describe_config(str(ROOT / "configs" / "rl_doom.py")).splitlines()
    assert "--config.steps=2\n      My own.\n" in text
    steps = expected.index("  --config.steps=40")
    comment = next(i for i in range(steps + 1, len(expected)) if expected[i].startswith("  --config"))
    expected[steps:comment] = ["  --config.steps=2", "      My own."]
    assert text.splitlines() == expected


def test_programs_print_their_fields():
    output = programs.run("label", "--help", status=0)
    assert output.startswith("Label videos with an inverse dynamics model")
    assert "--config.num_shards=1\n      Sharding over hosts" in output
    other = programs.run("train", "--config=configs/rl_doom.py", "--help", status=0)
    assert "Fields of configs/rl_doom.py" in other
    assert "--config.ppg.kl_pretrained_coef=0.2\n" in other
    assert "error: configs/foundation.py has no variant '9m'" in programs.run(
        "train", "--config=configs/foundation.py:9m", "--help", status=1
    )
