"""Train the clean filter, and filter videos with it (fields: configs/filter.py)."""

from vpt_jax.curation.clean_filter.commands import clean_filter
from vpt_jax.system import command_line

if __name__ == "__main__":
    command_line.run(clean_filter, "configs/filter.py")
