"""Evaluate policies in an environment; usage: vpt_jax/commands/evaluate.py, or --help."""

from vpt_jax.commands.evaluate import run

if __name__ == "__main__":
    run()
