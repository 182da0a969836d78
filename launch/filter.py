"""Train the clean filter, and filter videos with it; usage: vpt_jax/commands/filter.py, or --help."""

from vpt_jax.commands.filter import run

if __name__ == "__main__":
    run()
