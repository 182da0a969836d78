"""The commands of an installed package, `vpt-train` and others: each is a program of launch/, from any folder."""

import ast
import configparser
import os
import re
import subprocess
import sys

import pytest

from tests.programs import ROOT
from vpt_jax.system import command_line
from vpt_jax.system.config_files import config_argument, find_config, find_configs
from vpt_jax.system.errors import MissingFileError

PACKAGED = ROOT / "vpt_jax" / "configs"
MODULES = sorted(path.stem for path in (ROOT / "vpt_jax" / "commands").glob("[!_]*.py"))


def entry_points():
    """Module and function of every command in setup.cfg, by its name."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return dict(re.findall(r"(\S+) = (\S+)", parser["options.entry_points"]["console_scripts"]))


def test_every_command_is_an_entry_point_and_a_launcher():
    assert entry_points() == {f"vpt-{name.replace('_', '-')}": f"vpt_jax.commands.{name}:run" for name in MODULES}
    for name in MODULES:
        module, launcher = (
            ast.parse((ROOT / folder / f"{name}.py").read_text()) for folder in ("vpt_jax/commands", "launch")
        )
        assert "run" in [node.name for node in module.body if isinstance(node, ast.FunctionDef)]
        imports = [node for node in launcher.body if isinstance(node, ast.ImportFrom)]
        assert [ast.unparse(node) for node in imports] == [f"from vpt_jax.commands.{name} import run"]


def start(name, *flags, cwd, status=0):
    """Output of a command as its entry point starts it, in another folder."""
    script = f"import sys; sys.argv[0] = 'bin/vpt-{name}'; from vpt_jax.commands.{name} import run; sys.exit(run())"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, *flags]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    return done.stdout + done.stderr


def test_help_of_a_command_names_it_and_has_the_fields_of_the_packages_config(tmp_path):
    output = start("collect", "--help", cwd=tmp_path)
    assert output.startswith("Search the web for videos and download them")
    assert "Fields of web (another config: --config=NAME[:VARIANT]" in output
    assert "--config.max_results=500\n      Maximal number of videos" in output


def test_a_config_in_the_working_directory_is_read_by_its_path(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "web.py").write_text(
        "from vpt_jax.configs import web\n\n\ndef get_config():\n    config = web.get_config()\n"
        "    config.max_results = 77\n    return config\n"
    )
    output = start("collect", "--config=configs/web.py", "--help", cwd=tmp_path)
    assert "--config.max_results=77\n      Maximal number of videos" in output
    missing = start("collect", "--config=configs/wbe.py", cwd=tmp_path, status=1)
    assert f"error: there is no config file configs/wbe.py in {tmp_path}: give a path, or one of" in missing


def test_a_config_is_found_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("foundation:500m,v5e-256") == f"{PACKAGED}/foundation.py:500m,v5e-256"
    assert find_config("label") == f"{PACKAGED}/label.py"
    (tmp_path / "mine.py").touch()
    assert find_config("mine.py:a:b") == "mine.py:a:b"
    assert find_configs(["x", "--config=idm:demo", "--config.steps=3", "-config", "label", "--config", "mine.py"]) == [
        "x", f"--config={PACKAGED}/idm.py:demo", "--config.steps=3", "-config", f"{PACKAGED}/label.py", "--config",
        "mine.py",
    ]  # fmt: skip
    assert config_argument(["--config=a", "--config", "b:c", "--config.d=e"], "default") == "b:c"
    assert config_argument(["stats"], "default") == "default"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            "configs/foundation.py:71m",
            r"no config file configs/foundation.py in .*the package's own is --config=founda",
        ),
        ("fundation", r"no config file fundation in .*by its name: data, demo, .*, foundation, "),
        ("base", r"no config file base in .*by its name"),  # of all configs, and none itself
    ],
)
def test_a_missing_config_is_named_with_the_remedy(tmp_path, monkeypatch, config, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match=message):
        find_config(config)


def test_messages_name_the_command_that_the_user_has(monkeypatch):
    text = "run python launch/import_weights.py, launch/train.py --config=configs/idm.py:demo or launch/pipeline.py"
    assert command_line.as_called(text) == text
    monkeypatch.setattr(sys, "argv", ["/usr/bin/vpt-label"])
    renamed = "run vpt-import-weights, vpt-train --config=idm:demo or launch/pipeline.py"
    assert command_line.as_called(text) == renamed
