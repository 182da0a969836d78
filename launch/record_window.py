"""Record a person's play in any X11 window; usage: vpt_jax/commands/record_window.py, or --help."""

from vpt_jax.commands.record_window import run

if __name__ == "__main__":
    run()
