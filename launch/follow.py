"""Let the checkpoints of a training run play; usage: vpt_jax/commands/follow.py, or --help."""

from vpt_jax.commands.follow import run

if __name__ == "__main__":
    run()
