"""Search the web for videos and download them; usage: vpt_jax/commands/collect.py, or --help."""

from vpt_jax.commands.collect import run

if __name__ == "__main__":
    run()
