"""Label videos with an inverse dynamics model; usage: vpt_jax/commands/label.py, or --help."""

from vpt_jax.commands.label import run

if __name__ == "__main__":
    run()
