"""The table of XLA's flags: the installed XLA knows each, the documentation shows it, and nothing sets one."""

import os
import subprocess
import sys

from tests.programs import ROOT
from vpt_jax.system.xla_flags import NOT_MEASURED, XLA_FLAGS, flags_of


def start_jax(flags):
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_xla_knows_the_flags():
    """XLA ends a process with an unknown flag."""
    assert start_jax(" ".join(row.flag for row in XLA_FLAGS)).returncode == 0
    assert "Unknown flag" in start_jax("--xla_gpu_no_such_flag=true").stderr


def test_flags_have_one_row_each_and_are_shown_in_the_documentation():
    names = [row.flag.partition("=")[0] for row in XLA_FLAGS]
    assert len(set(names)) == len(names)
    page = (ROOT / "docs/speed.md").read_text()
    for row in XLA_FLAGS:
        assert f"| `{row.flag}` | {row.platform} | {row.reason} | {row.effect} |" in page


def test_no_flag_is_set_without_a_measured_effect():
    sources = "".join(path.read_text() for path in (ROOT / "vpt_jax").rglob("*.py") if path.name != "xla_flags.py")
    for row in XLA_FLAGS:
        assert row.effect == NOT_MEASURED or ": not set" in row.effect
        assert row.flag.partition("=")[0] not in sources
    assert {row.platform for row in XLA_FLAGS} == {"cuda", "cpu"}
    assert len(flags_of("cuda")) + len(flags_of("cpu")) == len(XLA_FLAGS)
