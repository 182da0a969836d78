"""Search the web for videos and download them (config fields: configs/web.py; guide: docs/collecting.md)."""

from vpt_jax.curation.download.web import collect
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(collect, "web", __name__)
