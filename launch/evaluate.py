"""Evaluate policies in an environment: mean return, items and milestones (fields: configs/evaluate.py)."""

from vpt_jax.programs.evaluate import evaluate
from vpt_jax.system import command_line

if __name__ == "__main__":
    command_line.run(evaluate, "configs/evaluate.py")
