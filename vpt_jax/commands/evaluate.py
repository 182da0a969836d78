"""Evaluate policies in an environment: mean return, items and milestones (fields: configs/evaluate.py)."""

from vpt_jax.programs.evaluate import evaluate
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(evaluate, "evaluate", __name__)
