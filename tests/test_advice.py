"""The advice in error messages can be followed.

Every config field, flag, file and extra that a message names must exist. For a table of errors, the advice of the
message is followed, and the program must then succeed.
"""

import ast
import os
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
from ml_collections import ConfigDict

from configs.prepare import get_config
from tests.conftest import record_episode
from tests.repository import ROOT, SOURCES, config_fields, extras, flag_names
from vpt_jax.data.prepare import PrepareError, prepare

STYLES = "vpt_jax/report/page.py"  # its variables look like flags
# Flags of other programs.
OTHER_FLAGS = {
    "shm-size",
    "partition",
    "recursive",
    "location",
    "remote-name",
    "head",
}  # of docker, sbatch, gcloud, aws, curl, ray


@cache
def messages() -> dict[str, set[str]]:
    """All strings of the sources except docstrings, with `{}` for inserted values, and the files that contain them."""
    found: dict[str, set[str]] = {}
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
                skipped |= {id(part) for part in node.values}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                parts = [node.value]
            else:
                continue
            found.setdefault("".join(map(str, parts)), set()).add(str(path.relative_to(ROOT)))
    return found


def test_fields_that_messages_name_exist():
    named = {}
    for text, files in messages().items():
        text = re.sub(r"\S*config\.json", "", text)  # a file
        for field in re.findall(r"(?<![\w./])(?:--)?config\.([a-z]\w*(?:\.[a-z]\w*)*)", text, re.IGNORECASE):
            named.setdefault(field, set()).update(files)
    assert len(named) > 50  # messages are found
    missing = {field: files for field, files in named.items() if field not in config_fields() | {"FIELD"}}
    assert not missing, missing


def test_flags_programs_and_extras_that_messages_name_exist():
    unknown = set()
    for text, files in messages().items():
        for flag in re.findall(r"(?<![\w-])--([a-z][\w-]*)", text) if " " in text and STYLES not in files else ():
            unknown |= {(flag, *files)} if flag not in flag_names() | OTHER_FLAGS else set()
        for file in re.findall(r"\b((?:launch|configs|docs|vpt_jax)/[\w/]+\.(?:py|md))\b", text):
            assert (ROOT / file).exists(), (file, text, files)
        for names in re.findall(r"\.\[([\w,]+)\]", text):
            assert set(names.split(",")) <= extras(), (names, text, files)
    assert not unknown, unknown


class Advice(NamedTuple):
    """An error: what provokes it, the advice in its message, and the action that follows the advice."""

    provoke: Callable[[Path, ConfigDict], object]
    message: str
    follow: Callable[[Path, ConfigDict], object]


def _prepare_otherwise(folder: Path, config: ConfigDict) -> None:
    """Prepares a dataset, and then changes a setting."""
    with config.unlocked():
        prepare(config)
        config.quality = 50


def _choose_another(folder: Path, config: ConfigDict) -> None:
    config.out = str(folder / "another")


ADVICE = {
    "in use": Advice(
        lambda folder, config: shutil.copytree(folder / "recordings", folder / "out"), "choose another --config.out",
        _choose_another,
    ),
    "a file": Advice(lambda folder, config: (folder / "out").touch(), "choose another --config.out", _choose_another),
    "other settings": Advice(_prepare_otherwise, "Remove it", lambda folder, config: shutil.rmtree(folder / "out")),
    "other settings, elsewhere": Advice(_prepare_otherwise, "or choose another --config.out", _choose_another),
    "edited": Advice(
        lambda folder, config: (prepare(config), (folder / "recordings" / "b.mp4").unlink()), "remove it",
        lambda folder, config: shutil.rmtree(folder / "out"),
    ),
    "size": Advice(
        lambda folder, config: config.update(height=20), "divisible by 8",
        lambda folder, config: config.update(height=24),
    ),
    "loose": Advice(
        lambda folder, config: (folder / "recordings" / "train").mkdir(), "move it into one of these folders",
        lambda folder, config: [
            os.rename(file, folder / "recordings" / "train" / file.name) for file in (folder / "recordings").glob("?.*")
        ],
    ),
    "nothing": Advice(
        lambda folder, config: config.update(out=""), "--config.recordings=A --config.out=B", _choose_another
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVICE)
def test_following_the_advice_gives_a_dataset(tmp_path, name, monkeypatch):
    def run(function, tasks):
        return ((number, function(*task)) for number, task in enumerate(tasks))

    monkeypatch.setattr("vpt_jax.data.prepare._workers", lambda *_: nullcontext(run))
    (tmp_path / "recordings").mkdir()
    for number, episode in enumerate("ab"):
        record_episode(tmp_path / "recordings" / episode, number, 3)
    config = get_config()
    config.update(recordings=str(tmp_path / "recordings"), out=str(tmp_path / "out"), height=16, width=16, workers=1)
    advice = ADVICE[name]
    advice.provoke(tmp_path, config)
    with pytest.raises(PrepareError, match=re.escape(advice.message)):
        prepare(config)
    advice.follow(tmp_path, config)
    assert (prepare(config) / "report.json").exists()
