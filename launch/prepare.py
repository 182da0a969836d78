"""Prepare a dataset; usage: vpt_jax/commands/prepare.py, or --help."""

from vpt_jax.commands.prepare import run

if __name__ == "__main__":
    run()
