"""Help of a config file: its fields with their defaults, and the comments above them in the source."""

import ast
import re
import runpy
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path

from ml_collections import ConfigDict

_WIDTH = 116


def describe_config(config_file: str) -> str:
    """Lists all fields of FILE[:VARIANT] as the flags that set them, each with its default value and its comment.

    Comments of fields that come from another config file, such as configs/base.py, are taken from there.

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
    """Names of the assigned fields, without `config.`, and their comments; a file overrides those that it includes."""
    seen.add(file)
    source, comments = file.read_text(), dict[str, str]()
    for name in re.findall(r'"(\w+\.py)"', source):  # configs that this one is made of
        if (included := file.with_name(name)).exists() and included not in seen:
            comments |= _comments(included, seen)
    lines, previous, comment = source.splitlines(), -1, ""
    assignments = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assign)]
    for node in sorted(assignments, key=lambda node: node.lineno):
        above = _comment_above(lines, node.lineno - 1)
        trailing = re.search(r"#\s*(.*)", lines[node.end_lineno - 1]) if node.end_lineno else None
        if above or node.lineno != previous + 1:  # else it belongs to the group of the line before
            comment = above
        shared = not above and bool(comment)
        previous = node.end_lineno or node.lineno
        if text := " ".join(filter(None, [comment, trailing[1] if trailing else ""])):
            target = node.targets[0]
            for field in target.elts if isinstance(target, ast.Tuple) else [target]:
                name = ast.unparse(field).removeprefix("config.")
                comments[name] = comments.get(name, text) if shared else text
    return comments


def _comment_above(lines: list[str], index: int) -> str:
    first = index
    while first and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return " ".join(line.strip().removeprefix("#").strip() for line in lines[first:index])
