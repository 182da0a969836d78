"""Measure how far text steers a policy; usage: vpt_jax/commands/steer.py, or --help."""

from vpt_jax.commands.steer import run

if __name__ == "__main__":
    run()
