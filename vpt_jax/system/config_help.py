"""Help of a config file: its fields with their defaults, and the comments above them in the source."""

import ast
import re
import runpy
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

_WIDTH = 116


def describe_config(config_file: str) -> str:
    """Lists all fields of FILE[:VARIANT] as the flags that set them, each with its default value and its comment.

    Comments of fields that come from another config, such as `vpt_jax.configs.base`, are taken from there, if the file
    imports it.

    Raises:
        OSError: there is no such file.
        Exception: as the file raises, for instance for an unknown variant.
    """
    file, *variant = config_file.split(":", 1)
    config = runpy.run_path(file)["get_config"](*variant)
    comments = _comments(Path(file), set())
    lines = []
    for name, value in _fields(config):
        lines.append(f"  --config.{name}={value!r}")
        if comment := _find_comment(name, comments):
            lines += textwrap.wrap(comment, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _find_comment(name: str, comments: Mapping[str, str]) -> str:
    """The comment of the longest tail of a dotted name: a config's groups may have local names in its source.

    A group that is made at once, as `ConfigDict({...})`, has one comment for all of its fields.
    """
    parts = name.split(".")
    tails = [".".join(parts[start:end]) for end in range(len(parts), 0, -1) for start in range(end)]
    return next((comments[tail] for tail in tails if tail in comments), "")


def _comments(file: Path, seen: set[Path]) -> dict[str, str]:
    """Names of the assigned fields, without `config.`, and their comments.

    Of several comments in a file, the first counts: later assignments are those of variants. A file's comments replace
    those of included files; one that only trails a line is added to them.
    """
    seen.add(file)
    source, included, own = file.read_text(), dict[str, str](), dict[str, str]()
    tree = ast.parse(source)
    for other in _imported_configs(tree):
        if other not in seen:
            included = _comments(other, seen) | included
    lines, following, comment, group = source.splitlines(), 0, "", ""
    assignments = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    for node in sorted(assignments, key=lambda node: node.lineno):
        above = _comment_above(lines, node.lineno - 1)
        found = re.search(r"#\s*(.*)", lines[(node.end_lineno or node.lineno) - 1])
        trailing = found[1] if found else ""
        target = node.targets[0]
        prefix = ast.unparse(target).rpartition(".")[0]
        if above or node.lineno != following or not prefix.startswith(group):  # else: comment of the line before
            comment, group = above, prefix
        following = (node.end_lineno or node.lineno) + 1
        for field in target.elts if isinstance(target, ast.Tuple) else [target]:
            name = ast.unparse(field).removeprefix("config.")
            if text := " ".join(filter(None, [comment or included.get(name, ""), trailing])):
                own.setdefault(name, text)
    return included | own


def _imported_configs(tree: ast.Module) -> Iterator[Path]:
    """Files of the modules with a `get_config` that a config imports; it has been run, so they are loaded."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):  # either of a module's names, or of modules of a package
            names = [f"{node.module}", *(f"{node.module}.{name}" for name in names)]
        for name in names:
            module = sys.modules.get(name)
            if hasattr(module, "get_config") and (file := getattr(module, "__file__", None)):
                yield Path(file)


def _comment_above(lines: list[str], index: int) -> str:
    first = index
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(line.strip().removeprefix("#").strip() for line in lines[first:index])
