"""The documents are true: the site builds, links lead somewhere, and what code and commands name exists."""

import ast
import re
import shlex
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest

from tests.repository import ROOT, SOURCES, config_fields, extras, flag_names, load_config
from vpt_jax.system.renamed_fields import field_names

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *NOTEBOOKS])
PRESENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which has names of the past
PLACEHOLDER = re.compile("CONFIG|FILE|MACHINE|MYGAME|VARIANT")  # in names of configs and variants
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
EACH_PAGE = pytest.mark.parametrize("page", PRESENT, ids=lambda page: str(page.relative_to(ROOT)))
FOLDERS = ("vpt_jax", "configs", "tests", "launch", "docs", "notebooks")


def read(page: Path) -> str:
    """The text of a page; of a notebook, that of its page on the site."""
    if page.suffix != ".ipynb":
        return page.read_text()
    sys.path.insert(0, str(ROOT / ".ci"))
    try:
        return import_module("notebook_pages").page_text(page)
    finally:
        sys.path.remove(str(ROOT / ".ci"))


def fenced(page: Path, language: str) -> list[str]:
    return [block for found, block in FENCE.findall(read(page)) if found == language]


def prose(page: Path) -> str:
    """The text without its blocks of code."""
    return FENCE.sub("", read(page))


def inline_code(page: Path) -> list[str]:
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_site_builds(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for notebook in NOTEBOOKS:
        assert (tmp_path / "notebooks" / notebook.stem / "index.html").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"\w+:", link):  # a URL
            continue
        file, _, anchor = link.partition("#")
        if page.suffix == ".ipynb":
            file = file.replace(".md", ".ipynb")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def imported_names(tree: ast.Module) -> dict[str, object]:
    """Objects that a block imports from this repository, by their names in it."""
    names: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in FOLDERS:
                    names[alias.asname or alias.name.partition(".")[0]] = import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FOLDERS:
            for alias in node.names:
                names[alias.asname or alias.name] = resolve(f"{node.module}.{alias.name}")
    return names


def resolve(dotted: str) -> object:
    """The module or attribute of this name, such as `vpt_jax.PolicyAgent.load`."""
    name, _, last = dotted.rpartition(".")
    if not name:
        return import_module(last)
    parent = resolve(name)
    if not hasattr(parent, last) and find_spec(dotted):
        return import_module(dotted)
    return getattr(parent, last)


@EACH_PAGE
def test_python_blocks_name_what_exists(page):
    for block in fenced(page, "python"):
        tree = ast.parse(block)
        names = imported_names(tree)
        for node in ast.walk(tree):
            dotted = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            first, *rest = dotted.split(".")
            if first not in names or not re.fullmatch(r"[\w.]+", dotted):
                continue
            found = names[first]
            for name in rest:
                assert hasattr(found, name), f"{dotted} in\n{block}"
                found = getattr(found, name)


@EACH_PAGE
def test_names_of_modules_exist(page):
    for code in inline_code(page):
        if found := re.match(r"(vpt_jax(?:\.\w+)+)(?![\w/])", code):
            resolve(found[1])


def commands(page: Path) -> list[list[str]]:
    """The programs of `launch/` in a page's commands, each with its arguments."""
    lines = chain.from_iterable(re.sub(r"\\\n\s*", " ", block).splitlines() for block in fenced(page, "sh"))
    found: list[list[str]] = []
    for line in [*lines, *inline_code(page)]:
        if not re.search(r"\blaunch/\w+(/\w+)?\.py", line):
            continue
        open_command = False
        for word in shlex.split(line, comments=True):
            if re.fullmatch(r"launch/\w+(/\w+)?\.py", word):
                found.append([word])
                open_command = True
            elif open_command:
                found[-1].append(word)
    return found


def default_config(program: str) -> str:
    """Name of the config of a program; "": it has none."""
    files = [ROOT / program, ROOT / "vpt_jax" / "commands" / Path(program).name]
    sources = "".join(file.read_text() for file in files if file.exists())
    found = re.search(r'command_line\.run\(.*"(?:configs/)?(\w+)(?:\.py)?"', sources)
    return found[1] if found else ""


@EACH_PAGE
def test_commands_name_programs_configs_and_fields_that_exist(page):
    for program, *arguments in commands(page):
        assert (ROOT / program).exists(), program
        flags = [
            re.fullmatch(r"--([\w.]+)(?:=(.*))?", word) for word in arguments if word.startswith("--") and word != "--"
        ]
        assert all(flags), arguments
        settings = {found[1]: found[2] for found in flags if found}
        config = settings.get("config") or default_config(program)
        if PLACEHOLDER.search(config):
            continue
        file, _, variant = config.partition(":")
        file = file if (ROOT / file).is_file() else f"configs/{Path(file).stem}.py"  # a name alone is one of these
        names = field_names(load_config(file, variant or None)) if config else config_fields()
        for setting in settings:
            known = setting.removeprefix("config.") in names if "." in setting else setting in flag_names()
            assert known, f"{program}: --{setting} ({config})"


@EACH_PAGE
def test_settings_outside_of_commands_exist(page):
    """Such as `--config.data.batch` and `data.batch`."""
    groups = {name for name in config_fields() if any(field.startswith(f"{name}.") for field in config_fields())}
    missing = set()
    for code in inline_code(page):
        for field in re.findall(r"--config\.([\w.]*\w)", code):
            missing |= {field} - config_fields() - {"FIELD"}
        if (found := re.fullmatch(r"(\w+)\.[a-z]\w*(\.\w+)*", code)) and found[1] in groups and not is_file(code):
            missing |= {code} - config_fields()
        for file, variant in re.findall(r"(configs/[\w/]+\.py):([\w,-]+)", code):
            if not PLACEHOLDER.search(file + variant):
                load_config(file, variant)
    assert not missing


def is_file(name: str) -> bool:
    return name.rpartition(".")[2] in ("html", "json", "jsonl", "md", "npz", "parquet", "py", "txt")


@EACH_PAGE
def test_flags_extras_and_targets_exist(page):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in [*fenced(page, "sh"), *inline_code(page)]:
        for names in re.findall(r"\.\[([\w,]+)\]", code):
            assert set(names.split(",")) <= extras(), code
        for target in re.findall(r"^make ([\w-]+)", code, re.MULTILINE):
            assert target in targets, code


@EACH_PAGE
def test_paths_exist(page):
    path = re.compile(rf"(?:{'|'.join(FOLDERS)})/[\w./-]*")
    named = {code.partition(":")[0].rstrip("/") for code in inline_code(page) if path.match(code)}
    missing = [
        name for name in named if path.fullmatch(name) and not PLACEHOLDER.search(name) and not (ROOT / name).exists()
    ]
    assert not missing


def test_the_glossary_names_are_in_their_files():
    folder, rows, missing = "vpt_jax", 0, []
    for line in (ROOT / "docs" / "glossary.md").read_text().splitlines():
        if found := re.match(r"Files are in `(\w+)/`", line):
            folder = found[1]
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 4 or not cells[3].endswith(".py`"):
            continue
        rows += 1
        file = ROOT / folder / cells[3].strip("`")
        assert file.exists(), line
        for name in re.findall(r"`([\w.]+)`", cells[2]):
            text = file.read_text()
            present = name in field_names_of(file) if folder == "configs" else re.search(rf"\b{name}\b", text)
            missing += [] if present else [(name, str(file))]
    assert rows > 60
    assert not missing


def field_names_of(file: Path) -> frozenset[str] | list[str]:
    if file.stem.endswith("base"):  # of no config by itself
        return config_fields()
    return field_names(load_config(f"configs/{file.name}"))


def test_programs_are_found():
    """The tests above see the commands, blocks and files that they are about."""
    assert len({program for page in PRESENT for program, *_ in commands(page)}) > 12
    assert sum(len(fenced(page, "python")) for page in PRESENT) > 20
    programs = ("train", "label", "play")
    assert [default_config(f"launch/{name}.py") for name in programs] == ["foundation", "label", "play"]
    assert len(SOURCES) > 100
