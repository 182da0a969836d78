"""Adam or Muon with decoupled weight decay, clipping, and a linear schedule (paper, appendices D and E).

The paper gives Adam, a learning rate and a weight decay, but not how the decay is applied. We decouple it (AdamW): a
step shrinks a weight by `learning_rate * weight_decay` of itself. Coupled, the decay is added to the gradient before
Adam normalizes: where the gradient is small, only the decay remains and is scaled up to a full step, whatever its
coefficient. OpenAI's fine-tuning demonstration couples it (`torch.optim.Adam`). Biases and norms are not decayed.

Muon (https://kellerjordan.github.io/posts/muon) is our addition: it makes all directions of a kernel's update equally
large. Actions that give little gradient at first, such as up and down compared with left and right, are then learnt
much sooner.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Int

from vpt_jax.parallel import path_name


def linear_schedule(peak: float, warmup_steps: int, total_steps: int | Int[Array, ""]) -> optax.Schedule:
    """Linear warm-up from 0 to `peak` over `warmup_steps`, then linear decay to 0 at `total_steps`.

    `total_steps` may be traced, unlike in `optax.linear_schedule`: runs of different lengths then share one program,
    which is compiled once.
    """

    def learning_rate(step: Any) -> Any:
        up = peak * step / max(warmup_steps, 1)
        down = peak * jnp.clip(total_steps - step, 0) / (total_steps - warmup_steps)
        return jnp.where(step < warmup_steps, up, down)

    return learning_rate


def adam(schedule: optax.Schedule, weight_decay: float, clip_norm: float) -> optax.GradientTransformation:
    """AdamW, the paper's update, after gradient clipping to a global norm of at most `clip_norm`."""
    decay = optax.adamw(schedule, weight_decay=weight_decay, mask=_is_matrix)
    return optax.chain(optax.clip_by_global_norm(clip_norm), decay)


def muon(schedule: optax.Schedule, weight_decay: float, clip_norm: float) -> optax.GradientTransformation:
    """Muon for kernels, with updates of Adam's size; Adam for biases and norms, and, undecayed, for action heads."""
    update = optax.contrib.muon(
        schedule,
        weight_decay=weight_decay,
        muon_weight_dimension_numbers=_matrices,
        consistent_rms=1.0,
    )
    return optax.chain(optax.clip_by_global_norm(clip_norm), update)


OPTIMIZERS: dict[str, Callable[[optax.Schedule, float, float], optax.GradientTransformation]] = {
    "adam": adam,
    "muon": muon,
}


def _matrices(params: Any) -> Any:
    """Muon's dimension numbers: input and output axes of each matrix; a convolution's window counts as input."""

    def axes(path: tuple[Any, ...], leaf: Array) -> optax.contrib.MuonDimensionNumbers | None:
        if leaf.ndim < 2 or path_name(path).startswith("actions/"):
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))

    return jax.tree.map_with_path(axes, params)


def _is_matrix(params: Any) -> Any:
    """Marks kernels: everything but biases, norms' scales and other vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
