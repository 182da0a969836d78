"""Train a policy or an inverse dynamics model; usage: vpt_jax/commands/train.py, or --help."""

from vpt_jax.commands.train import run

if __name__ == "__main__":
    run()
