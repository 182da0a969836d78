"""Values marked as the paper's, the released code's etc. are listed in docs/sources.md, with the same values."""

import ast
import importlib
import operator
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MARKS = ("paper", "code", "replica", "recalled")
ROW = re.compile(r"\| `(\w+)` \| `([\w.]+)` \| `(.+?)` \| (\w+) \|")
ROWS = ROW.findall((ROOT / "docs" / "sources.md").read_text())
FILES = sorted({file for file, *_ in ROWS})


def blocks(file):
    """For each commented block of fields: the marks in its comment, and the names of the fields."""
    comment, found = [], []
    for line in (ROOT / "configs" / f"{file}.py").read_text().splitlines():
        assigned = re.match(r"\s+((?:\w+\.[\w.]+(?:, | = ))+)", line)
        if line.strip().startswith("#"):
            comment.append(line.strip(" #"))
        elif assigned:
            names = [name.split(".")[-1] for name in re.split(", | = ", assigned[1]) if name]
            if comment:
                notes = re.findall(r"\(([^()]*)\)", " ".join(comment))
                marked = [note.split(":")[0] for note in notes if re.match(rf"({'|'.join(MARKS)})\b", note)]
                found.append(({mark for mark in MARKS for note in marked if mark in note}, []))
            if found:
                found[-1][1].extend(names)
            comment = []
        else:
            comment = []
    return found


@pytest.mark.parametrize(("file", "field", "value", "mark"), ROWS)
def test_listed_values_equal_the_configs_and_have_their_marks(file, field, value, mark):
    """No value of the page differs from the config; no recalled value is called the paper's (fidelity section 4)."""
    config = importlib.import_module(f"configs.{file}").get_config()
    assert operator.attrgetter(field)(config) == ast.literal_eval(value)
    assert mark in MARKS
    field_marks = [marks for marks, names in blocks(file) if field.split(".")[-1] in names]
    assert mark in field_marks[0]  # later ones are the demo's


@pytest.mark.parametrize("file", FILES)
def test_every_mark_in_a_config_is_listed(file):
    """Every marked value needs a row of docs/sources.md that names its source."""
    listed = {field.split(".")[-1] for other, field, *_ in ROWS if other == file} | {"temperature"}  # of OpenAI's files
    assert not [(marks, names) for marks, names in blocks(file) if marks and not listed & set(names)]


def test_only_listed_configs_have_marks():
    """Configs of reinforcement learning document their sources themselves."""
    files = {path.stem for path in (ROOT / "configs").glob("[!_]*.py") if not path.stem.startswith("rl_")}
    assert {file for file in files if any(marks for marks, _ in blocks(file))} <= set(FILES)
