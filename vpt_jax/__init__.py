"""Video PreTraining in JAX: learn to act by watching video (arXiv 2206.11795)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vpt_jax.agent import PolicyAgent, VideoLabeller
    from vpt_jax.data.prepare import prepare
    from vpt_jax.envs.games import make_env
    from vpt_jax.labelling.job import label
    from vpt_jax.openai.convert import from_openai
    from vpt_jax.programs.evaluate import evaluate
    from vpt_jax.programs.train import train
    from vpt_jax.system.errors import UserError
    from vpt_jax.training.checkpoints import TrainedIDM, TrainedPolicy, load_idm, load_policy

__version__ = "0.1.0"
# Imported on first use: `import vpt_jax` stays fast, and models and the train step need no video libraries.
_MODULES = {
    "PolicyAgent": "vpt_jax.agent",
    "VideoLabeller": "vpt_jax.agent",
    "TrainedIDM": "vpt_jax.training.checkpoints",
    "TrainedPolicy": "vpt_jax.training.checkpoints",
    "UserError": "vpt_jax.system.errors",
    "evaluate": "vpt_jax.programs.evaluate",
    "from_openai": "vpt_jax.openai.convert",
    "label": "vpt_jax.labelling.job",
    "load_idm": "vpt_jax.training.checkpoints",
    "load_policy": "vpt_jax.training.checkpoints",
    "make_env": "vpt_jax.envs.games",
    "prepare": "vpt_jax.data.prepare",
    "train": "vpt_jax.programs.train",
}
__all__ = [
    "PolicyAgent",
    "TrainedIDM",
    "TrainedPolicy",
    "UserError",
    "VideoLabeller",
    "__version__",
    "evaluate",
    "from_openai",
    "label",
    "load_idm",
    "load_policy",
    "make_env",
    "prepare",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'vpt_jax' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> "list[str]":  # quoted: MineRL's Python 3.8 imports this file
    return sorted(__all__)
