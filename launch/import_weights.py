"""Import OpenAI's released weights; usage: vpt_jax/commands/import_weights.py, or --help."""

from vpt_jax.commands.import_weights import run

if __name__ == "__main__":
    run()
