"""Video PreTraining in JAX: learn to act by watching video (arXiv 2206.11795)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vpt_jax.agent import Agent

__version__ = "0.1.0"
__all__ = ["Agent", "__version__"]


def __getattr__(name: str) -> "type[Agent]":
    """`Agent`, which is imported when it is asked for: models and the train step do without the video libraries."""
    if name != "Agent":
        raise AttributeError(f"module 'vpt_jax' has no attribute {name!r}")
    from vpt_jax.agent import Agent

    return Agent
