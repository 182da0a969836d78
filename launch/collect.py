"""Search the web for videos and download them (config fields: configs/web.py; guide: docs/collecting.md)."""

from vpt_jax.curation.download.web import collect
from vpt_jax.system import command_line

if __name__ == "__main__":
    command_line.run(collect, "configs/web.py")
