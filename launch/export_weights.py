"""Export weights to OpenAI's format or safetensors; usage: vpt_jax/commands/export_weights.py, or --help."""

from vpt_jax.commands.export_weights import run

if __name__ == "__main__":
    run()
