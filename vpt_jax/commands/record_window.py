"""Record a person's play in any X11 window: frames, keys and mouse; fields: configs/record_window.py.

python launch/record_window.py --config.window=TITLE --config.out=RECORDINGS --config.player=P1 --config.licence=CC0-1.0

It records while the window has the focus, until Ctrl-C. `--config.consent` is required: the words of the person who
plays, that they agree. Without `--config.window` it lists all windows.
"""

from ml_collections import ConfigDict

from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(_record, "record_window", __name__)


def _record(config: ConfigDict) -> None:
    from vpt_jax.curation.window_recorder.recorder import record  # here, since python-xlib may not be installed

    record(config)
