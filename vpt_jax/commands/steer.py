"""Measure how far text steers a policy in a game (fields: configs/steer.py)."""

from vpt_jax.programs.steer import steer
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(steer, "steer", __name__)
