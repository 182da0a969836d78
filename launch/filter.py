"""Train the clean filter, and filter videos with it (fields: configs/filter.py)."""

from vpt_jax import command_line
from vpt_jax.data.filtering.clean_filter import MISTAKES, clean_filter

if __name__ == "__main__":
    command_line.run(clean_filter, "configs/filter.py", MISTAKES)
