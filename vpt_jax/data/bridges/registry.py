"""Bridges by name, as `launch/prepare.py --source=NAME` takes it; each is imported when it is used.

A row is "module:NAME" of a `Bridge`. A format that needs a package of its own imports it when it reads.
"""

from collections.abc import Mapping
from importlib import import_module

from vpt_jax.data.bridges.interface import Bridge

BRIDGES: Mapping[str, str] = {
    "event_table": "vpt_jax.data.bridges.event_table:BRIDGE",  # videos with NAME.csv or NAME.parquet
    "owl_control": "vpt_jax.data.bridges.owl_control:BRIDGE",
    "crowd_cast": "vpt_jax.data.bridges.crowd_cast:BRIDGE",
    "owamcap": "vpt_jax.data.bridges.owamcap:BRIDGE",
    "lerobot": "vpt_jax.data.bridges.lerobot:BRIDGE",
    "p2p": "vpt_jax.data.bridges.p2p:BRIDGE",
    "csgo": "vpt_jax.data.bridges.csgo:BRIDGE",
}


def load_bridge(name: str) -> Bridge:
    """Imports a bridge by its name in `BRIDGES`."""
    module, _, constant = BRIDGES[name].partition(":")
    return getattr(import_module(module), constant)
