"""Inspect and validate a dataset; usage: vpt_jax/commands/data.py, or --help."""

from vpt_jax.commands.data import run

if __name__ == "__main__":
    run()
