"""Adam with decoupled weight decay, clipping, and a linear schedule (paper, appendices D and E).

The paper gives Adam, a learning rate and a weight decay, and not how the decay is applied. We decouple it (AdamW): a
step shrinks a weight by `learning_rate * weight_decay` of itself. Coupled, the decay is added to the gradient before
Adam normalises: where the gradient is small, the decay is all that is left, and is blown up to a full step whatever its
coefficient. OpenAI's fine-tuning demonstration couples it (`torch.optim.Adam`). Biases and norms are not decayed.
"""

from typing import Any

import jax
import optax


def linear_schedule(peak: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Up from 0 to `peak` over the warm-up, then down to 0 at `total_steps`, on straight lines."""
    up = optax.linear_schedule(0, peak, warmup_steps)
    down = optax.linear_schedule(peak, 0, total_steps - warmup_steps)
    return optax.join_schedules([up, down], [warmup_steps])


def adam(schedule: optax.Schedule, weight_decay: float, clip_norm: float) -> optax.GradientTransformation:
    """The update all stages use; gradients are first scaled down to a global norm of at most `clip_norm`."""
    decay = optax.adamw(schedule, weight_decay=weight_decay, mask=_is_matrix)
    return optax.chain(optax.clip_by_global_norm(clip_norm), decay)


def _is_matrix(params: Any) -> Any:
    """Marks kernels: everything but biases, norms' scales and other vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
