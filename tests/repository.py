"""Facts about the repository that texts refer to: fields of configs, flags of programs, extras of the package."""

import re
import runpy
from configparser import ConfigParser
from functools import cache
from pathlib import Path

from ml_collections import ConfigDict

from vpt_jax.system.renamed_fields import field_names

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("vpt_jax", "launch") for path in (ROOT / folder).rglob("*.py"))
_BASES = ("base", "rl_base")  # configs that others begin with


@cache
def load_config(file: str, variant: str | None = None) -> ConfigDict:
    """The config of `configs/NAME.py`, in its default variant or another."""
    return runpy.run_path(str(ROOT / file))["get_config"](*[variant] if variant is not None else [])


@cache
def config_fields() -> frozenset[str]:
    """Dotted names of the fields of all configs, groups included."""
    files = [path for path in (ROOT / "configs").glob("[!_]*.py") if path.stem not in _BASES]
    files += [path for path in (ROOT / "configs" / "sweeps").glob("*.py") if path.stem not in _BASES]
    configs = [load_config(str(path.relative_to(ROOT))) for path in files]
    base = runpy.run_path(str(ROOT / "configs" / "base.py"))["get_config"]("policy", "x")
    return frozenset().union(*map(field_names, [*configs, base, load_config("configs/play.py", "video")]))


@cache
def flag_names() -> frozenset[str]:
    """Flags of all programs, other than the fields of their configs."""
    sources = "\n".join(path.read_text() for path in SOURCES)
    return frozenset(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', sources)) | {"config", "help"}


@cache
def extras() -> frozenset[str]:
    """Optional dependencies of the package, such as `doom`."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return frozenset(setup["options.extras_require"])
