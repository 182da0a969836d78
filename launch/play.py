"""Play episodes with a policy, and film them; usage: vpt_jax/commands/play.py, or --help."""

from vpt_jax.commands.play import run

if __name__ == "__main__":
    run()
