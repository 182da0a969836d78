"""Command line of the programs: `~`, seeds, unknown and renamed fields, streams that are closed or end early."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from tests import programs
from vpt_jax.system import command_line
from vpt_jax.system.paths import NoHomeError, expand_argument, expand_config, expand_home
from vpt_jax.system.renamed_fields import (
    RENAMED_FIELDS,
    RenamedFieldError,
    explain_missing_field,
    field_names,
    new_names_hint,
    refuse_renamed_fields,
)

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys
from pathlib import Path
from vpt_jax.system import command_line, workers

def main():
    print("beginning \\u00b1 \\udce9", flush=True)
    with workers.progress_bar(3, desc="working \\u00b1") as bar:
        for i in range(3):
            bar.update()
            bar.refresh()
    for line in range(20000):
        print("line", line)
    sys.stderr.write("noise\\n" * 20000)
    Path("done").write_text(os.readlink("/proc/self/fd/1") + " " + os.readlink("/proc/self/fd/2"))

command_line.run_plain(main)
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(redirection, **variables):
        """Exit status and output of the program, which must have run to its end."""
        line = f"{sys.executable} program.py {redirection}"
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
        ended = subprocess.run(
            ["/bin/bash", "-c", f"set -o pipefail; {line}"],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert (tmp_path / "done").exists(), ended.stderr.decode()[-1000:]
        return ended.returncode, ended.stdout + ended.stderr

    return run


@pytest.mark.parametrize(
    "redirection",
    ["2>&1 | head -1", "2>&-", "<&- >&- 2>&-", "> /dev/full"],
)
def test_closed_and_broken_streams_do_not_end_a_program(run, redirection, tmp_path):
    """Nor do files of a program get the descriptor of a closed stream."""
    status, output = run(redirection)
    assert "2>&-" not in redirection or (tmp_path / "done").read_text().endswith("/dev/null")
    assert status == 0
    assert b"Traceback" not in output
    assert b"Exception ignored" not in output


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_any_output_encoding_works(run, variables):
    status, output = run("", **variables)
    assert status == 0
    assert output.startswith(b"beginning ")
    assert b"\\udce9" in output.splitlines()[0]
    assert output.count(b"line ") == 20000


@pytest.fixture
def home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize(
    ("text", "expanded"),
    [("~", "/home/me"), ("~/data set", "/home/me/data set"), ("mine=~/run", "mine=/home/me/run"), ("./~/x", "./~/x"),
     ("a~b", "a~b"), ("~~ great ~~", "~~ great ~~"), ("", ""), ("/a/~", "/a/~")],
)  # fmt: skip
def test_a_tilde_is_expanded_to_the_home_folder(home, text, expanded):
    assert expand_home(text, "config.out") == expanded


def test_a_tilde_of_an_unknown_user_is_refused(home):
    with pytest.raises(NoHomeError, match=r"config\.out is '~nobody_here/x'.*whole path"):
        expand_home("~nobody_here/x", "config.out")


def test_every_string_of_a_config_and_every_flag_is_expanded(home):
    config = ConfigDict({"out": "~/o", "n": 3, "policies": ("a=~/a", "~/b"), "game": {"path": "~/v"}, "search": "~x"})
    expand_config(config)
    assert config.to_dict() == {
        "out": "/home/me/o", "n": 3, "policies": ("a=/home/me/a", "/home/me/b"), "game": {"path": "/home/me/v"},
        "search": "~x",
    }  # fmt: skip
    config = ConfigDict({"mixture": ({"dataset": "~/a", "weight": 2}, "b=~/b")})
    expand_config(config)
    assert config.mixture == ({"dataset": "/home/me/a", "weight": 2}, "b=/home/me/b")
    arguments = [
        "--config=~/c.py:demo",
        "--config.out=~/o",
        "-out=~",
        "--source=contractor",
        "--config.search=~a",
        "-h",
    ]
    assert [*map(expand_argument, arguments)] == [
        "--config=/home/me/c.py:demo", "--config.out=/home/me/o", "-out=/home/me", *arguments[3:]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "message"),
    [({"seed": -1}, "config.seed is -1"), ({"splits": {"valid": {"seed": 2**64}}}, "config.splits.valid.seed is 18"),
     ({"out": "~nobody_here"}, "config.out is '~nobody_here'")],
)  # fmt: skip
def test_invalid_values_in_any_field_are_one_line(config, message):
    class Flag:
        value = ConfigDict(config)

    with pytest.raises(SystemExit) as ended:
        command_line._read_config(Flag)
    assert str(ended.value).startswith(f"error: {message}")
    assert "\n" not in str(ended.value)


def test_new_names_are_fields_of_the_configs_and_old_names_are_not():
    paths = [path for path in (ROOT / "configs").glob("[!_]*.py") if path.stem not in ("base", "rl_base")]
    names = set().union(*(field_names(runpy.run_path(str(path))["get_config"]()) for path in paths))
    assert {new for new_names in RENAMED_FIELDS.values() for new in new_names} <= names
    assert not RENAMED_FIELDS.keys() & names


def with_remat(remat):
    return ConfigDict({"model": {"remat": remat}})


@pytest.mark.parametrize(("old", "new"), [(True, "stacks"), ("True", "stacks"), (False, "none"), ("false", "none")])
def test_old_values_get_the_new_ones(old, new):
    with pytest.raises(RenamedFieldError, match=f"config.model.remat={old} is now called config.model.remat={new}"):
        refuse_renamed_fields(with_remat(old))
    refuse_renamed_fields(with_remat(new))


NAMES = [
    "frames_per_second", "num_envs", "workdir", "data", "data.batch", "data.workers", "optimizer", "optimizer.name",
]  # fmt: skip


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("games", "config.games is now called config.num_envs"),
        ("rate", "config.rate is now called config.frames_per_second"),  # and in another config bytes_per_second
        ("fragments", "the config has no field fragments"),  # nor the new one
        ("data.bacth", "the config has no field data.bacth; did you mean config.data.batch?"),
        ("bacth", "the config has no field bacth; did you mean config.data.batch?"),
        ("workers", "the config has no field workers; did you mean config.data.workers?"),  # not workdir
        ("optimizer.momentum", "the config has no field optimizer.momentum"),  # no field resembles it
    ],
)
def test_a_missing_field_is_explained_by_its_new_name_or_a_similar_one(field, message):
    assert explain_missing_field(field, NAMES) == message


def test_old_names_in_an_error_message_are_explained():
    config = ConfigDict({"ppg": {"leash_": 0.0}})
    with pytest.raises(AttributeError) as raised:
        _ = config.ppg.leash
    hint = "config.ppg.leash is now called config.ppg.kl_pretrained_coef"
    assert new_names_hint(str(raised.value).replace("\\", "")) == hint
    assert new_names_hint("'rate'").endswith("called config.frames_per_second or config.bytes_per_second")
    assert new_names_hint("'parts'").count("is now called") == 2  # of training, and of labelling
    assert new_names_hint("it has no length") == ""


@pytest.mark.parametrize(
    ("program", "flags", "message"),
    [
        ("train", ["--config.data.parts=2"], "config.data.parts is now called config.data.grad_accum_steps"),
        (
            "train",
            ["--config=configs/rl_doom.py", "--config.steps=1", "--config.ppg.leash", "0.1"],
            "config.ppg.leash is now called config.ppg.kl_pretrained_coef",
        ),
        ("label", ["--config.parts=2"], "config.parts is now called config.num_shards"),
        ("collect", ["--config.rate=1"], "config.rate is now called config.bytes_per_second"),
        ("evaluate", ["--config.num_evns=2"], "the config has no field num_evns; did you mean config.num_envs?"),
    ],
)
def test_programs_explain_fields_that_their_config_does_not_have(program, flags, message):
    assert programs.run(program, *flags, status=1).splitlines()[-1] == f"error: {message}"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "config.games = 8",
            "the config sets a field by its old name: config.games is now called config.num_envs",
        ),
        ("config.ppg.leash /= 2", "(config.ppg.leash is now called config.ppg.kl_pretrained_coef)"),
    ],
)
def test_a_config_file_with_an_old_name_is_refused(tmp_path, line, message):
    file = tmp_path / "mine.py"
    file.write_text(
        "from configs import rl_doom\n\n\ndef get_config():\n    config = rl_doom.get_config()\n"
        f"    {line}\n    return config\n"
    )
    last = programs.run("train", f"--config={file}", status=1).splitlines()[-1]
    assert last.startswith("error: ")
    assert last.endswith(message)
