"""The public API of the package: exports, cost of the import, names and docstrings."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import vpt_jax

PACKAGE = Path(vpt_jax.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
WEAK_STARTS = ("What ", "Whether ", "Those ", "How ", "That ")
# Names of earlier versions (see docs/glossary.md for the present ones).
OLD_NAMES = {
    "Ring", "look", "remember", "look_once", "see_motion", "spread_basis", "Recipe", "Coefficients", "Apprentice",
    "Fragment", "surprise", "goes_on", "Turn", "Tally", "Lost", "Decision", "Move", "Acted", "facts_of",
    "note_settings", "hold", "held_by", "held_beside", "first_params", "say", "Manners", "Machine", "Said",
}  # fmt: skip

# Terms of the field, and the file in which a search has to find each.
TERMS = {
    "KV cache": "models/kv_cache.py",
    "Transformer-XL": "models/kv_cache.py",
    "ring buffer": "models/kv_cache.py",
    "gradient accumulation": "training/state.py",
    "stop_gradient": "training/freezing.py",
    "GAE": "training/ppg/losses.py",
    "TD error": "training/ppg/losses.py",
    "exponential backoff": "curation/download/transfer.py",
    "PatchCore": "curation/clean_filter/novelty.py",
    "atomic write": "system/atomic_files.py",
    "FSDP": "parallel.py",
    "no-op": "data/streams.py",
    "color": "data/augment.py",
    "KL penalty": "training/ppg/losses.py",
    "pseudo-label": "labelling/model.py",
}


def definitions(path):
    """Public classes and functions of a module and of its public classes, with the names of the classes."""
    nodes = [(node, "") for node in ast.parse(path.read_text()).body]
    while nodes:
        node, owner = nodes.pop()
        if not isinstance(node, ast.ClassDef | ast.FunctionDef) or node.name.startswith("_") or node.name == "setup":
            continue
        yield node, owner
        if isinstance(node, ast.ClassDef):
            nodes += [(child, node.name) for child in node.body]


def is_documented_elsewhere(node):
    """Flax's `__call__`-like compact methods are described by their class; overloads by the implementation."""
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    return bool(decorators & {"nn.compact", "overload"})


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_docstrings_begin_plainly(path):
    faults = []
    for node, owner in definitions(path):
        text = ast.get_docstring(node)
        if not text and not is_documented_elsewhere(node):
            faults.append(f"{owner}.{node.name}: no docstring")
        elif text and text.startswith(WEAK_STARTS):
            faults.append(f"{owner}.{node.name}: {text.splitlines()[0]}")
    text = ast.get_docstring(ast.parse(path.read_text()))
    if text and text.startswith(WEAK_STARTS):
        faults.append(text.splitlines()[0])
    assert not faults


def test_public_names_are_unique_and_present():
    classes, names = Counter(), set()
    for path in MODULES:
        for node, owner in definitions(path):
            names.add(node.name)
            if isinstance(node, ast.ClassDef) and not owner:
                classes[node.name] += 1
    assert [name for name, count in classes.items() if count > 1] == []
    assert names & OLD_NAMES == set()


@pytest.mark.parametrize(("term", "file"), TERMS.items())
def test_ideas_are_found_by_their_terms(term, file):
    assert term.lower() in (PACKAGE / file).read_text().lower()


def test_exported_names_exist():
    assert set(vpt_jax.__all__) == set(dir(vpt_jax))
    for name in vpt_jax.__all__:
        assert getattr(vpt_jax, name) is not None


def test_the_package_imports_nothing_heavy():
    script = "import sys; old = set(sys.modules); import vpt_jax; print(*sorted(set(sys.modules) - old))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    own = {"vpt_jax", *sys.stdlib_module_names}
    assert [name for name in loaded if name.partition(".")[0] not in own] == []
