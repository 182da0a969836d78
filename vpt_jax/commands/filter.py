"""Train the clean filter, and filter videos with it (fields: configs/filter.py)."""

from vpt_jax.curation.clean_filter.commands import clean_filter
from vpt_jax.system import command_line


def run() -> None:
    """Run the command."""
    command_line.run(clean_filter, "filter", __name__)
