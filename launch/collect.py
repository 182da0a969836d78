"""Search the web for videos and download them (fields: configs/web.py; docs/collecting.md)."""

from vpt_jax import command_line
from vpt_jax.data.sources.web import CollectError, collect

if __name__ == "__main__":
    command_line.run(collect, "configs/web.py", (CollectError,))
