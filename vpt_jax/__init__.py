"""Video PreTraining in JAX: learn to act by watching video (arXiv 2206.11795)."""

__version__ = "0.1.0"
