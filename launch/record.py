"""Record episodes of the embedded game; usage: vpt_jax/commands/record.py, or --help."""

from vpt_jax.commands.record import run

if __name__ == "__main__":
    run()
